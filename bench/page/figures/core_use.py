"""Are the cores kept busy, and with work?"""

from __future__ import annotations

import altair as alt
import numpy as np

from bench.page import charts
from bench.page.figure import Figure, Missing, Panel, Row, Series
from bench.page.records import Records
from bench.page.words import listed
from bench.report.kinds import Promise, Use

TITLE = "Are the cores kept busy?"

SPENT = Series("spent", ["computing", "waiting"], "time")


def figures(records: Records) -> list[Figure | Missing]:
    uses = records.of(Use)
    watched = [p for p in records.of(Promise) if p.other_keys.get("cores_in_use")]
    if not uses and not watched:
        command = "nox -s bench_mpi -- -n 2 bench/studies/kfold.py --quick"
        return [Missing("The use of the cores has not been watched", command)]
    drawn: list[Figure | Missing] = []
    if uses:
        drawn += [over_time(uses), work(uses)]
    if watched:
        drawn.append(of_trainings(watched))
    return drawn


def _titles(uses: list[Use]) -> list[str]:
    """What was watched, numbered where it was watched several times."""
    seen: dict[str, int] = {}
    titles = []
    for use in uses:
        seen[use.what] = seen.get(use.what, 0) + 1
        titles.append(use.what if seen[use.what] == 1 else f"{use.what}, again ({seen[use.what]})")
    return titles


def over_time(uses: list[Use]) -> Figure:
    """Cores in use, process over process, at every look."""
    rows: list[Row] = [
        {
            "what": what,
            "process": process,
            "from_seconds": use.nap * i,
            "to_seconds": use.nap * (i + 1),
            "cores": cores,
        }
        for what, use in zip(_titles(uses), uses)
        for process, all_cores in use.cores.items()
        for i, cores in enumerate(all_cores)
    ]
    means = {
        what: sum(float(np.mean(cores or [0])) for cores in use.cores.values())
        for what, use in zip(_titles(uses), uses)
    }
    most = max(means, key=lambda what: means[what])
    longest = max(row["to_seconds"] for row in rows)
    return Figure(
        id="core-use",
        title="How many cores are in use?",
        measured=f"Processor time of every process between two looks, {uses[0].nap:g} s apart, "
        "over the time that passed. A process that waits by spinning uses a core, too.",
        see=f"The higher the better. {most} uses {means[most]:.1f} cores on average.",
        alt=f"Stacked areas of the cores that each process of {listed(means)} used.",
        rows=rows,
        charts={"": [Panel(what, _area(what, longest)) for what in means]},
        records=uses,
    )


def _area(what: str, longest: float) -> charts.Chart:
    scale = alt.Scale(domain=[0, longest], nice=False)
    return (
        charts.draw(what=what)
        .mark_bar(stroke=charts.LIGHT["paper"], strokeWidth=0.5)
        .encode(
            x=alt.X("from_seconds:Q", title="seconds", scale=scale, axis=alt.Axis(tickCount=6)),
            x2="to_seconds:Q",
            y=charts.y("cores", "cores in use").stack("zero"),
            detail="process:N",
            tooltip=charts.tooltip(process="", from_seconds=".2f", cores=".2f"),
        )
        .properties(height=140)
    )


def work(uses: list[Use]) -> Figure:
    """Computing apart from waiting, for every process."""
    rows: list[Row] = [
        {"what": what, "process": process, "spent": spent, "seconds": seconds}
        for what, use in zip(_titles(uses), uses)
        for spent, all_seconds in (("computing", use.computing), ("waiting", use.waiting))
        for process, seconds in all_seconds.items()
    ]
    total = {spent: sum(r["seconds"] for r in rows if r["spent"] == spent) for spent in SPENT.names}
    share = total["computing"] / (sum(total.values()) or 1)
    return Figure(
        id="core-work",
        title="How much of it is work?",
        measured="Processor time of every process, and the rest of the time that passed: waiting "
        "for work, a disk, or a core.",
        see=f"All together, {share:.0%} of the time was spent computing.",
        alt="Stacked bars of the seconds that each process computed and waited.",
        rows=rows,
        charts={"": [Panel(what, _bars(what, use)) for what, use in zip(_titles(uses), uses)]},
        series=SPENT,
        records=uses,
    )


def _bars(what: str, use: Use) -> charts.Chart:
    return (
        charts.draw(what=what)
        .mark_bar()
        .encode(
            x=charts.x("seconds", "seconds"),
            y=alt.Y("process:N", title=None, sort=None),
            color=charts.colour(SPENT),
            tooltip=charts.tooltip(process="", spent="", seconds=".2f"),
        )
        .properties(**charts.rows_high(len(use.computing)))
    )


def of_trainings(watched: list[Promise]) -> Figure:
    """Cores in use while single trainings ran without a stop."""
    rows: list[Row] = [
        {"training": p.what.partition(":")[0], "look": i, "cores": cores}
        for p in watched
        for i, cores in enumerate(p.other_keys["cores_in_use"], 1)
    ]
    names = list(dict.fromkeys(row["training"] for row in rows))
    series = Series("training", names[: len(charts.SERIES)], "training")
    means = {
        p.what.partition(":")[0]: float(np.mean(p.other_keys["cores_in_use"])) for p in watched
    }
    most = max(means, key=lambda name: means[name])
    line = (
        charts.draw()
        .mark_line()
        .encode(
            x=charts.x("look", "looks, a quarter of a second apart"),
            y=charts.y("cores", "cores in use"),
            color=charts.colour(series),
            strokeDash=charts.dash(series),
            tooltip=charts.tooltip(training="", look="d", cores=".2f"),
        )
    )
    return Figure(
        id="core-use-of-trainings",
        title="How many cores does each way to train use?",
        measured="All ranks together, in a training that nothing interrupts. Waiting by spinning "
        "counts as use.",
        see=f"{most} uses most, {means[most]:.1f} cores on average.",
        alt=f"Lines of the cores in use by {listed(names)} over time.",
        rows=rows,
        charts={"": [Panel("", charts.zoomed(line))]},
        series=series,
        records=watched,
    )
