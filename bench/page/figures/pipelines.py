"""What does a pipeline do when? One step of every schedule, as it was measured."""

import altair as alt

from bench.page import charts
from bench.page.figure import Figure, Missing, Panel, Row, Series
from bench.page.records import Records
from bench.page.style import LIGHT, ON_SERIES
from bench.page.words import counted, listed
from bench.report.kinds import Measurement, Promise

TITLE = "What does a pipeline do when?"

DOING = Series("doing", ["forward", "backward"], "operation")
COMMAND = "nox -s bench_mpi -- -n 2 bench/studies/model_parallel.py --quick"

NARROW = 0.04
"""Share of the longest step up to which an operation is too short for its number."""

LABELLED = 24
"""Operations of a rank up to which each has the number of its micro-batch written on it."""


def figures(records: Records) -> list[Figure | Missing]:
    cells = [m for m in records.of(Measurement) if m.operations and not m.oversubscribed]
    if not cells:
        return [Missing("No step of a pipeline has been watched", COMMAND)]
    usual = min(cells, key=lambda m: (m.cell.workers != 2, m.cell.batch_size)).cell
    shown = [m for m in cells if (m.cell.workers, m.cell.model) == (usual.workers, usual.model)]
    shown = list({m.cell.strategy: m for m in reversed(shown)}.values())[::-1]
    return [timeline(shown, records.of(Promise))]


def idle_share(m: Measurement) -> float:
    """Share of the time of all ranks of the shown step in which they have no operation."""
    busy = sum(end - begin for rank in m.operations for *_, begin, end in rank)
    length = max(end for rank in m.operations for *_, end in rank)
    return 1 - busy / (length * len(m.operations))


def formula(m: Measurement, promises: list[Promise]) -> float | None:
    """The idle share by the schedule alone, as the study records it."""
    begin = f"idle share of {m.cell.strategy}, {m.cell.workers} workers, batch {m.cell.batch_size} "
    found = [p.other_keys.get("formula") for p in promises if p.what.startswith(begin)]
    return found[-1] if found else None


def timeline(cells: list[Measurement], promises: list[Promise]) -> Figure:
    """The diagram that people draw, from measured times."""
    rows: list[Row] = []
    panels = []
    longest = max(1e3 * end for m in cells for rank in m.operations for *_, end in rank)
    for m in cells:
        measured, ideal = idle_share(m), formula(m, promises)
        rows += [
            {
                "schedule": m.cell.strategy,
                "rank": rank,
                "doing": DOING.names["FB".index(kind)],
                "stage": stage,
                "micro_batch": micro,
                "begin_ms": 1e3 * begin,
                "end_ms": 1e3 * end,
                "idle_share": measured,
                "idle_share_by_formula": ideal,
            }
            for rank, operations in enumerate(m.operations)
            for kind, stage, micro, begin, end in operations
        ]
        title = f"{m.cell.strategy}: idle {measured:.0%}"
        title += "" if ideal is None else f", by formula {ideal:.0%}"
        panels.append(Panel(title, _bars(m, longest)))
    least = min(cells, key=idle_share)
    first = cells[0].cell
    return Figure(
        id="pipeline-timeline",
        title="One step of each schedule of a pipeline",
        measured=f"{first.model}, batch {first.batch_size}, {counted(first.workers, 'worker')}. "
        "The step of median length among 9; an operation begins when the rank has what it needs.",
        see="Gaps are time in which a rank has nothing to do. The schedule with the fewest gaps is "
        f"{least.cell.strategy}, idle for {idle_share(least):.0%}. Numbers are micro-batches.",
        alt=f"Timelines of {listed(m.cell.strategy for m in cells)}: forward and backward "
        "operations of every rank as bars from begin to end.",
        rows=rows,
        charts={"": panels},
        series=DOING,
        records=cells,
    )


def _bars(m: Measurement, longest: float) -> charts.Chart:
    scale = alt.Scale(domain=[0, longest], nice=False)
    base = charts.draw(schedule=m.cell.strategy).encode(
        x=alt.X("begin_ms:Q", title="milliseconds", scale=scale, axis=alt.Axis(tickCount=6)),
        y=alt.Y("rank:O", title="rank"),
        tooltip=charts.tooltip(
            doing="", rank="d", stage="d", micro_batch="d", begin_ms=".3f", end_ms=".3f"
        ),
    )
    bars = base.mark_bar(stroke=LIGHT["paper"], strokeWidth=1).encode(
        x2="end_ms:Q", color=charts.colour(DOING)
    )
    layers, height = [charts.zoomed(bars)], 40 * len(m.operations)
    if max(map(len, m.operations)) <= LABELLED:
        wide = f"datum.end_ms - datum.begin_ms > {NARROW * longest:.6f}"
        text = base.mark_text(align="left", dx=2, fontSize=11).transform_filter(wide)
        on = alt.Scale(domain=list(DOING.names), range=ON_SERIES)
        colour = alt.Color("doing:N", scale=on, legend=None)
        numbers = text.encode(text="micro_batch:Q", color=colour)
        return charts.apart(charts.layers(*layers, numbers), "color").properties(height=height)
    return charts.layers(*layers).properties(height=height)
