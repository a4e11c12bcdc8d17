"""How do time and speed grow with the batch and with the data?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bench.page import charts
from bench.page.figure import Figure, Missing, Panel, Row, Series
from bench.page.figures import speedup
from bench.page.records import Records, chunked, strategies_of
from bench.page.words import counted, listed, rounds_of
from bench.report.kinds import Measurement

TITLE = "How does it depend on the batch and on the data?"
PLAIN = "plain training"

Both = list[Figure | Missing]


def figures(records: Records) -> Both:
    return [*by_data(records), *by_batch(records)]


def by_data(records: Records) -> Both:
    """The time of an epoch against the rows of the data set."""
    cells = list({m.cell: m for m in records.of(Measurement, "test_epochs")}.values())
    if len({m.cell.dataset_size for m in cells}) < 2:
        command = "nox -s bench_mpi -- -n 2 bench/test_epochs.py"
        return [Missing("Epochs of several sizes of the data have not been measured", command)]
    series = Series("strategy", [PLAIN, *strategies_of(cells)][: len(charts.SERIES)], "trained by")
    rows: list[Row] = []
    for m in sorted(cells, key=lambda m: m.cell.dataset_size):
        steps = m.cell.dataset_size / m.cell.batch_size
        about = {"net": _net(m), "dataset_rows": m.cell.dataset_size}
        for name, arm in ((PLAIN, "sequential"), (m.cell.strategy, "parallel")):
            row = {**about, "strategy": name, "seconds": _seconds(m, arm) * steps}
            row["speedup"] = 1.0 if name == PLAIN else m.speedup
            if row not in rows:
                rows.append(row)
    rounds = rounds_of(cells)
    largest = max(cells, key=lambda m: (m.cell.dataset_size, m.speedup))
    nets = list(dict.fromkeys(map(_net, cells)))
    return [
        Figure(
            id="epochs",
            title="How long is an epoch?",
            measured=f"The median time of a step over {rounds}, times the steps of an "
            "epoch; plain training and strategies of one net and size took turns.",
            see=f"With {largest.cell.dataset_size:,} rows an epoch takes "
            f"{_epoch(largest, 'sequential'):.2f} s plainly, and {_epoch(largest, 'parallel'):.2f} "
            f"s by {largest.cell.strategy} on {counted(largest.cell.workers, 'worker')}.",
            alt=f"Lines of the seconds of an epoch of {listed(series.names)} against rows.",
            rows=rows,
            charts={"": [Panel(net, _by_data(net, series)) for net in nets]},
            series=series,
            records=cells,
        )
    ]


def _net(m: Measurement) -> str:
    where = "" if m.cell.device == "cpu" else f" on {m.cell.device}"
    return f"{m.cell.model}{where}, batch {m.cell.batch_size}"


def _seconds(m: Measurement, arm: str) -> float:
    """The median time of a step."""
    return float(np.median(m.rounds[arm])) / m.steps_per_round


def _epoch(m: Measurement, arm: str) -> float:
    return _seconds(m, arm) * m.cell.dataset_size / m.cell.batch_size


def _by_data(net: str, series: Series) -> charts.Chart:
    base = charts.draw(net=net).encode(
        x=charts.x("dataset_rows", "rows of the data set", format="~s"),
        y=charts.y("seconds", "seconds of an epoch"),
        color=charts.colour(series),
        tooltip=charts.tooltip(strategy="", dataset_rows=",d", seconds=".3f", speedup=".2f"),
    )
    return charts.layers(
        base.mark_line().encode(strokeDash=charts.dash(series)),
        base.mark_point().encode(shape=charts.shape(series)),
    )


def by_batch(records: Records) -> Both:
    """The time of a step and samples per second against the rows of a batch."""
    cells = list({m.cell: m for m in records.of(Measurement, *speedup.GRID)}.values())
    usable = [m for m in cells if not m.oversubscribed]
    several = [m for m in usable if len({o.cell.batch_size for o in usable if _like(o, m)}) > 1]
    if not several:
        command = "nox -s bench_mpi -- -n 2 bench/test_speedup.py"
        return [Missing("No strategy has been measured with several batch sizes", command)]
    most = max(m.cell.workers for m in several)
    shown = [m for m in several if m.cell.workers == most]
    return [
        _by_batch([m for m in shown if m.cell.strategy in names], number)
        for number, names in enumerate(chunked(strategies_of(shown), len(charts.SERIES) - 1), 1)
    ]


def _like(a: Measurement, b: Measurement) -> bool:
    return (a.cell.strategy, a.cell.model, a.cell.device, a.cell.workers, a.cell.dataset_size) == (
        b.cell.strategy,
        b.cell.model,
        b.cell.device,
        b.cell.workers,
        b.cell.dataset_size,
    )


def _by_batch(cells: Sequence[Measurement], number: int) -> Figure:
    series = Series("strategy", [PLAIN, *strategies_of(cells)], "trained by")
    rows: list[Row] = []
    for m in sorted(cells, key=lambda m: m.cell.batch_size):
        about = {"net": m.cell.model, "batch_size": m.cell.batch_size}
        for name, arm in ((PLAIN, "sequential"), (m.cell.strategy, "parallel")):
            seconds = _seconds(m, arm)
            row = {
                **about,
                "strategy": name,
                "step_ms": 1e3 * seconds,
                "samples_per_second": m.cell.batch_size / seconds,
                "speedup": 1.0 if name == PLAIN else m.speedup,
            }
            if row not in rows:
                rows.append(row)
    nets = list(dict.fromkeys(m.cell.model for m in cells))
    best = max(cells, key=lambda m: m.samples_per_second)
    workers = counted(cells[0].cell.workers, "worker")
    return Figure(
        id="batch-sizes" + (f"-{number}" if number > 1 else ""),
        title="What does a larger batch bring?",
        measured=f"Medians of {rounds_of(cells)} on {workers}, which "
        "divide the rows of the batch; each batch size is a race of its own.",
        see=f"Most samples a second, {best.samples_per_second:,.0f}, are trained by "
        f"{best.cell.strategy} in batches of {best.cell.batch_size}.",
        alt=f"Lines of samples per second and of the time of a step of {listed(series.names)} "
        "against the batch size.",
        rows=rows,
        charts={
            "samples/s": [
                Panel(n, _over_batch(n, series, "samples_per_second", "samples/s", "~s"))
                for n in nets
            ],
            "time of a step": [
                Panel(n, _over_batch(n, series, "step_ms", "ms a step", "~g")) for n in nets
            ],
        },
        series=series,
        records=cells,
    )


def _over_batch(net: str, series: Series, value: str, title: str, form: str) -> charts.Chart:
    base = charts.draw(net=net).encode(
        x=charts.whole("batch_size", "rows of a batch"),
        y=charts.y(value, title, format=form),
        color=charts.colour(series),
        tooltip=charts.tooltip(
            strategy="", batch_size="d", samples_per_second=",.0f", step_ms=".3f", speedup=".2f"
        ),
    )
    return charts.layers(
        base.mark_line().encode(strokeDash=charts.dash(series)),
        base.mark_point().encode(shape=charts.shape(series)),
    )
