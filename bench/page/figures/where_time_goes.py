"""Where does the time of a step go? What each rank computes, sends and waits."""

import altair as alt

from bench.page import charts
from bench.page.figure import Figure, Missing, Panel, Row, Series
from bench.page.figures import speedup
from bench.page.records import Records, strategies_of
from bench.page.words import counted, listed
from bench.report.kinds import Measurement

TITLE = "Where does the time go?"

DOING = Series("doing", ["compute", "communication", "waiting"], "what a rank does")

NAME = 18
"""Pixels of the name above the bars of a strategy."""


def figures(records: Records) -> list[Figure | Missing]:
    cells = list({m.cell: m for m in records.of(Measurement, *speedup.GRID)}.values())
    profiled = [m for m in speedup.most_workers(cells) if m.profile] if cells else []
    if not profiled:
        return [Missing("Nobody has looked where time goes", "nox -s bench_mpi -- --quick")]
    return [by_rank(profiled)]


def by_rank(cells: list[Measurement]) -> Figure:
    """Bars of one step for every rank of every strategy."""
    rows: list[Row] = [
        {
            "setting": speedup.setting(m),
            "strategy": m.cell.strategy,
            "rank": rank,
            "doing": doing,
            "share": share,
        }
        for m in cells
        for doing in DOING.names
        for rank, share in enumerate(m.profile.get(doing, ()))
    ]
    waits = {m.cell: max(m.profile.get("waiting", [0.0])) for m in cells}
    worst = max(cells, key=lambda m: waits[m.cell])
    panels = [
        Panel(f"{name}, {counted(raced[0].cell.workers, 'worker')}", _bars(name, raced))
        for name in dict.fromkeys(map(speedup.setting, cells))
        if (raced := [m for m in cells if speedup.setting(m) == name])
    ]
    return Figure(
        id="where-time-goes",
        title="What does each rank do during a step?",
        measured="Shares of the time of one turn on a communicator that counts, with a barrier in "
        "front of every collective; it is not the turn that speedups are taken from.",
        see="One bar is one rank, rank 0 above. Only what is computed is useful. The longest wait, "
        f"{waits[worst.cell]:.0%} of the time, is in {worst.cell.strategy} "
        f"({speedup.setting(worst)}).",
        alt=f"Stacked bars of computing, communicating and waiting for each rank of "
        f"{listed(strategies_of(cells))}.",
        rows=rows,
        charts={"": panels},
        series=DOING,
        records=cells,
    )


def _bars(name: str, raced: list[Measurement]) -> charts.Chart:
    bars = 12 * max(m.cell.workers for m in raced)
    high = NAME + bars + 6
    rows = alt.Y("strategy:N", title=None, sort=None, axis=None, scale=alt.Scale(padding=0))
    base = charts.draw(setting=name).encode(y=rows)
    ranks = (
        base.mark_bar()
        .encode(
            x=charts.x("share", "share of the time", format="%"),
            yOffset=alt.YOffset("rank:O", scale=alt.Scale(range=[NAME, NAME + bars])),
            color=charts.colour(DOING),
            order=alt.Order("place:Q"),
            tooltip=charts.tooltip(strategy="", rank="d", doing="", share=".1%"),
        )
        .transform_calculate(place=f"indexof({DOING.names}, datum.doing)")
    )
    names = charts.names(base, "strategy", above=(high - NAME) // 2)
    return charts.layers(ranks, names).properties(height=high * len(raced))
