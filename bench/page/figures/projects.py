"""The projects' own tables: time of an epoch by rows, runtime and accuracy of each training."""

import altair as alt
import numpy as np

from bench.page import charts
from bench.page.figure import Figure, Missing, Panel, Row, Series
from bench.page.records import Records
from bench.page.words import counted
from bench.report.kinds import History, Measurement

TITLE = "What do the projects measure?"

ARMS = Series("arm", ["plain", "all ranks"], "training")


def figures(records: Records) -> list[Figure | Missing]:
    drawn: list[Figure | Missing] = []
    if cells := records.of(Measurement, "projects"):
        drawn.append(_epochs(cells))
    if trainings := [t for t in records.of(History, "projects") if t.evaluations]:
        drawn.append(_table(trainings))
    if not drawn:
        command = "nox -s bench_mpi -- -n 2 bench/studies/projects.py"
        return [Missing("The projects have not been measured", command)]
    return drawn


def _epochs(cells: list[Measurement]) -> Figure:
    rows: list[Row] = [
        {
            "net": m.cell.model,
            "arm": arm,
            "rows_of_an_epoch": m.cell.dataset_size,
            "seconds": _step(m, how) * m.cell.dataset_size / m.cell.batch_size,
            "speedup": m.speedup,
        }
        for m in cells
        for arm, how in zip(ARMS.names, ("sequential", "parallel"))
    ]
    nets = list(dict.fromkeys(row["net"] for row in rows))
    best = max(cells, key=lambda m: m.speedup)
    return Figure(
        id="projects-epochs",
        title="How long does an epoch take?",
        measured="Digits of 400 principal components, batches of 256 rows: the median step, times "
        "the steps of an epoch.",
        see=f"At best an epoch is {best.speedup:.2f} times as fast on "
        f"{counted(best.cell.workers, 'rank')} ({best.cell.model}, "
        f"{best.cell.dataset_size:,} rows).",
        alt="Lines of the seconds of an epoch against its rows, plainly and by all ranks.",
        rows=rows,
        charts={"": [Panel(net, _lines(net)) for net in nets]},
        series=ARMS,
        records=cells,
    )


def _step(m: Measurement, arm: str) -> float:
    """Median seconds of a step."""
    return float(np.median(m.rounds[arm])) / m.steps_per_round


def _lines(net: str) -> charts.Chart:
    base = charts.draw(net=net).encode(
        x=charts.x("rows_of_an_epoch", "rows", format="~s"),
        y=charts.y("seconds", "seconds of an epoch"),
        color=charts.colour(ARMS),
        tooltip=charts.tooltip(arm="", rows_of_an_epoch=",d", seconds=".3f", speedup=".2f"),
    )
    return charts.layers(base.mark_line(), base.mark_point().encode(shape=charts.shape(ARMS)))


def _table(trainings: list[History]) -> Figure:
    rows: list[Row] = [
        {
            "training": t.name,
            "workers": t.workers,
            "seconds": t.seconds[-1],
            "loss": t.evaluations[-1].values.get("loss"),
            "accuracy": t.evaluations[-1].values.get("accuracy"),
        }
        for t in trainings
    ]
    base = charts.draw().encode(
        y=alt.Y("training:N", title=None, sort=None, axis=None),
        tooltip=charts.tooltip(training="", workers="d", seconds=".2f", loss=".4f", accuracy=".2%"),
    )
    seconds = charts.x("seconds", "seconds of training", log=True, zero=False)
    points = base.mark_point(filled=True).encode(x=seconds)
    chart = charts.layers(points, charts.names(base, "training", above=11)).properties(
        height=alt.Step(36)
    )
    fastest = min(trainings, key=lambda t: t.seconds[-1])
    return Figure(
        id="projects-trainings",
        title="How long does each training take, and how good is it?",
        measured="Whole trainings, one of each; the clock stands while weights are judged.",
        see=f"The shortest is {fastest.name}: {fastest.seconds[-1]:.2g} s, and "
        f"{fastest.evaluations[-1].values.get('accuracy', 0.0):.1%} of its test rows are right.",
        alt="Points of the seconds of each training.",
        rows=rows,
        charts={"": [Panel("", chart)]},
        records=trainings,
    )
