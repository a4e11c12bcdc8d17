"""How large a batch still pays? Steps and time to a target accuracy, and two critical sizes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import altair as alt
import numpy as np

from bench.page import charts
from bench.page.figure import Figure, Missing, Panel, Row, Series
from bench.page.records import Records
from bench.page.words import counted, listed
from bench.report.batch_sizes import BatchSize, CriticalBatch, Interval, fastest

TITLE = "How large a batch still pays?"
COMMAND = "nox -s bench_mpi -- -n 2 bench/studies/batch_size.py"

Key = tuple[str, str, float]


def figures(records: Records) -> list[Figure | Missing]:
    studies: dict[Key, list[BatchSize]] = {}
    for each in records.of(BatchSize):
        studies.setdefault(_key(each), []).append(each)
    if not studies:
        return [Missing("The batch size that pays has not been measured", COMMAND)]
    critical = {_key(each): each for each in records.of(CriticalBatch)}
    drawn: list[Figure | Missing] = []
    for number, (key, sizes) in enumerate(studies.items(), 1):
        suffix = "" if number == 1 else f"-{number}"
        found = critical.get(key)
        if any(math.isfinite(steps) for each in sizes for steps in each.steps):
            drawn.append(steps_to_target(sizes, found, suffix))
        if any(each.rounds and math.isfinite(each.median) for each in sizes):
            drawn.append(time_to_target(sizes, suffix))
        if found:
            drawn.append(critical_sizes(found, suffix))
    return drawn or [Missing("No batch size has reached its target", COMMAND)]


def _key(each: BatchSize | CriticalBatch) -> Key:
    return each.net, each.dataset, each.target


def _about(each: BatchSize | CriticalBatch) -> str:
    return f"{each.net} on {each.dataset}, until {each.target:.0%} of the test rows are right"


def _known(value: float) -> float | None:
    """A place on a logarithmic axis; None for 0, infinity and nan, which have none."""
    return value if 0 < value < math.inf else None


def _ends(found: Interval) -> Row:
    known = {"low": _known(found.low), "high": _known(found.high)}
    return known if None not in known.values() else dict.fromkeys(known)


def steps_to_target(sizes: Sequence[BatchSize], found: CriticalBatch | None, suffix: str) -> Figure:
    """Steps against batch size: every training, the fit, and the ends of the regimes."""
    rows: list[Row] = [
        {"what": "training", "batch_size": each.batch_size, "seed": seed, "steps": _known(steps)}
        for each in sizes
        for seed, steps in enumerate(each.steps, 1)
    ]
    see = "Each batch size has a learning rate and momentum of its own."
    if found and math.isfinite(found.by_steps.value):
        fewest, critical = found.fewest_steps.value, found.by_steps.value
        rows += [
            {"what": "fit", "batch_size": size, "steps": fewest * (1 + critical / size)}
            for size in map(float, np.geomspace(found.smallest, found.largest, 40))
        ]
        rows += [
            {"what": what, "batch_size": _known(end.value), **_ends(end)}
            for what, end in (
                ("halves until", found.halves_until),
                ("pays until", found.pays_until),
            )
        ]
        see = (
            "Doubling the batch halves the steps, within 20%, up to "
            f"{found.halves_until.value:,.0f} rows, and saves more than 10% of them up to "
            f"{found.pays_until.value:,.0f}. "
            f"Bands are 95% intervals over {counted(found.seeds, 'seed')}."
        )
    never = sum(math.isinf(steps) for each in sizes for steps in each.steps)
    series = Series("what", ["training", "fit", "halves until", "pays until"], "")
    across = charts.x("batch_size", "rows of a batch", log=True)

    def of(*names: str) -> alt.Chart:
        return charts.draw().transform_filter(alt.FieldOneOfPredicate("what", list(names)))

    tip = charts.tooltip(what="", batch_size=",.0f", seed="d", steps=",.0f")
    ends_tip = charts.tooltip(what="", batch_size=",.0f", low=",.0f", high=",.0f")
    up = charts.y("steps", "steps to the target", log=True)
    colour = charts.colour(series)
    ends = of("halves until", "pays until")
    band = ends.mark_rect(opacity=0.15).encode(
        x=charts.x("low", "rows of a batch", log=True), x2="high:Q", color=colour
    )
    end = ends.mark_rule().encode(
        x=across, color=colour, strokeDash=charts.dash(series), tooltip=ends_tip
    )
    fit = (
        of("fit")
        .mark_line()
        .encode(x=across, y=up, color=colour, strokeDash=charts.dash(series), tooltip=tip)
    )
    points = of("training").mark_point().encode(x=across, y=up, color=colour, tooltip=tip)
    parts: list[charts.Chart] = [points]
    if any(row["what"] == "fit" for row in rows):
        parts = [fit, end, points]
    if any(row.get("low") for row in rows):
        parts = [band, *parts]
    return Figure(
        id=f"batch-size-steps{suffix}",
        title="Does doubling the batch halve the steps?",
        measured=f"{_about(sizes[0])}; {counted(sum(len(s.steps) for s in sizes), 'training')}, "
        f"of which {never} never arrived.",
        see=see,
        alt="Points of the steps to the target against the batch size, with a fitted curve.",
        rows=rows,
        charts={"": [Panel("", charts.layers(*parts))]},
        series=series,
        records=[*sizes, *([found] if found else [])],
    )


def time_to_target(sizes: Sequence[BatchSize], suffix: str) -> Figure:
    """Seconds to the target against batch size, a line for each number of workers."""
    rows: list[Row] = [
        {
            "workers": f"{workers}",
            "batch_size": each.batch_size,
            "seconds": _known(each.to_target(workers)),
            "steps": _known(each.median),
            "milliseconds_of_a_step": 1e3 * float(np.median(times)),
            "arrived": each.arrived,
        }
        for each in sizes
        for workers, times in each.rounds.items()
    ]
    best = min((row["seconds"] for row in rows if row["seconds"]), default=None)
    for row in rows:
        row["best"] = best is not None and row["seconds"] == best
    series = Series("workers", list(dict.fromkeys(row["workers"] for row in rows)), "workers")
    base = charts.draw().encode(
        x=charts.x("batch_size", "rows of a batch", log=True),
        y=charts.y("seconds", "seconds to the target", log=True),
        tooltip=charts.tooltip(
            workers="",
            batch_size=",d",
            seconds=".3f",
            steps=",.0f",
            milliseconds_of_a_step=".3f",
            arrived="d",
        ),
    )
    line = base.mark_line().encode(color=charts.colour(series), strokeDash=charts.dash(series))
    points = base.mark_point().encode(color=charts.colour(series), shape=charts.shape(series))
    marked = base.transform_filter(alt.FieldEqualPredicate(field="best", equal=True))
    ring = marked.mark_point(size=260, filled=False, strokeWidth=2)
    label = marked.mark_text(dy=-16).encode(text=alt.Text("seconds:Q", format=".3f"))
    return Figure(
        id=f"batch-size-time{suffix}",
        title="Which batch size, on how many workers, is first at the target?",
        measured=f"{_about(sizes[0])}: the median steps of the seeds, times the median seconds of "
        "a step; the steps of all batch sizes and workers were timed in the same rounds.",
        see=fastest(sizes),
        alt=f"Lines of the seconds to the target against the batch size for {listed(series.names)} "
        "workers; the least is ringed.",
        rows=rows,
        charts={"": [Panel("", charts.layers(line, points, ring, label))]},
        series=series,
        records=sizes,
    )


def critical_sizes(found: CriticalBatch, suffix: str) -> Figure:
    """The critical batch size by both methods, side by side."""
    methods = {
        "fit of the steps": found.by_steps,
        "noise scale": found.by_noise,
        "noise scale, second half": found.by_late_noise,
    }
    rows: list[Row] = [
        {"method": name, "batch_size": _known(each.value), **_ends(each)}
        for name, each in methods.items()
        if each
    ]
    base = charts.draw().encode(
        y=alt.Y("method:N", title=None, sort=None),
        tooltip=charts.tooltip(method="", batch_size=",.0f", low=",.0f", high=",.0f"),
    )
    rule = base.mark_rule().encode(
        x=charts.x("low", "critical batch size, rows", log=True), x2="high:Q"
    )
    point = base.mark_point().encode(
        x=charts.x("batch_size", "critical batch size, rows", log=True)
    )
    known = any(row["low"] for row in rows)
    chart = charts.layers(*([rule] if known else []), point).properties(
        **charts.rows_high(len(rows))
    )
    return Figure(
        id=f"critical-batch{suffix}",
        title="Does the noise of the gradients tell the critical batch size?",
        measured=f"{_about(found)}; 95% intervals over {counted(found.seeds, 'seed')}.",
        see=found.disagreement,
        alt="Points with intervals of the critical batch size by the fit and by the noise scale.",
        rows=rows,
        charts={"": [Panel("", chart)]},
        records=[found],
    )
