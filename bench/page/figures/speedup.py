"""Does training in parallel pay, and why not more? Speedups of the cells of the grid."""

from collections.abc import Sequence

import altair as alt

from bench.core.cell import interval
from bench.page import charts
from bench.page.figure import Figure, Missing, Panel, Row, Series
from bench.page.records import Records, chunked, strategies_of
from bench.page.words import counted, listed, rounds_of
from bench.report.kinds import Measurement

TITLE = "Does it pay here?"

GRID = ("test_speedup", "test_async", "test_torch", "test_user_code")
"""The benchmarks whose cells are compared here."""

THREADS = "threads, without MPI"
ARMS = Series("arm", ["measured", "if messages were free"], "speedup")


def figures(records: Records) -> list[Figure | Missing]:
    cells = list({m.cell: m for m in records.of(Measurement, *GRID)}.values())
    if not cells:
        return [Missing("No speedup has been measured", "nox -s bench_mpi -- --quick")]
    return [by_strategy(cells), *by_workers(cells)]


def setting(m: Measurement) -> str:
    """What two cells have in common if they are measured in one race."""
    where = "" if m.cell.device == "cpu" else f" on {m.cell.device}"
    return f"{m.cell.model}{where}, batch {m.cell.batch_size}, {m.cell.dataset_size:,} rows"


def most_workers(cells: Sequence[Measurement]) -> list[Measurement]:
    """The cells of every setting with the largest number of workers that have a core each."""
    usable = [m for m in cells if not m.oversubscribed] or list(cells)
    most = {setting(m): 0 for m in usable}
    for m in usable:
        most[setting(m)] = max(most[setting(m)], m.cell.workers)
    return [m for m in usable if m.cell.workers == most[setting(m)]]


def by_strategy(cells: Sequence[Measurement]) -> Figure:
    """Compare all strategies on as many workers as there are cores."""
    shown = most_workers(cells)
    best = max(shown, key=lambda m: m.speedup)
    return forest(
        shown,
        id="speedup-by-strategy",
        title="How many times as fast as plain training is each strategy?",
        see=f"Right of 1 it pays. The best is {best.cell.strategy} with {best.speedup:.2f} "
        f"({setting(best)}). What lies between the two marks of a strategy is what messages cost.",
    )


def forest(shown: Sequence[Measurement], id: str, title: str, see: str) -> Figure:
    """Draw the speedup of every contender of every race with its interval, fastest first."""
    rows: list[Row] = []
    panels = []
    for name in dict.fromkeys(map(setting, shown)):
        raced = sorted((m for m in shown if setting(m) == name), key=lambda m: -m.speedup)
        workers = max(m.cell.workers for m in raced)
        head = f"{name}, {counted(workers, 'worker')}"
        rows += [row for m in raced for row in _arms(m, head)]
        lines = len(raced)
        if raced[0].bound is not None:
            rows.append(_threads(raced[0], head))
            lines += 1
        panels.append(Panel(head, _forest(head, lines, any(m.bound for m in raced))))
    return Figure(
        id=id,
        title=title,
        measured="The time of plain training on one thread over that of each strategy, on the "
        f"same batches in turn: medians of {rounds_of(shown, 'paired round')} of one launch, with "
        "their 95% interval.",
        see=see,
        alt=f"Speedups of {listed(strategies_of(shown))}, each with its interval.",
        rows=rows,
        charts={"": panels},
        series=ARMS if any(m.bound is not None for m in shown) else None,
        records=shown,
    )


def _arms(m: Measurement, title: str) -> list[Row]:
    about = {"setting": title, "strategy": m.cell.strategy}
    measured = {"speedup": m.speedup, "low": m.speedup_low, "high": m.speedup_high}
    rows = [{**about, "arm": ARMS.names[0], **measured}]
    if m.bound is not None:
        low, high = interval(m.rounds["sequential"], m.rounds["silent"])
        free = {"speedup": m.bound, "low": low, "high": high}
        rows.append({**about, "arm": ARMS.names[1], **free})
    return rows


def _threads(m: Measurement, title: str) -> Row:
    low, high = m.threads_speedup, m.threads_speedup
    if len(m.rounds.get("threads", ())) == len(m.rounds["sequential"]):
        low, high = interval(m.rounds["sequential"], m.rounds["threads"])
    found = {"speedup": m.threads_speedup, "low": low, "high": high}
    return {"setting": title, "strategy": THREADS, "arm": ARMS.names[0], **found}


def _forest(title: str, rows: int, two: bool) -> charts.Chart:
    base = charts.draw(setting=title).encode(
        y=alt.Y("strategy:N", title=None, sort=None, axis=None),
        color=charts.colour(ARMS),
        tooltip=charts.tooltip(strategy="", arm="", speedup=".3f", low=".3f", high=".3f"),
    )
    parts = [charts.reference("x", 1, "plain training")]
    for arm, offset in zip(ARMS.names, (0, 11) if two else (3, 3), strict=True):
        parts += charts.interval(base, ARMS, arm, "speedup", offset)
    parts.append(charts.names(base, "strategy", above=12))
    return charts.layers(*parts).properties(height=(44 if two else 34) * rows)


def by_workers(cells: Sequence[Measurement]) -> list[Figure | Missing]:
    """Draw speedup, efficiency and serial fraction against the number of workers."""
    several = [
        m for m in cells if len({o.cell.workers for o in cells if _same_but_workers(o, m)}) > 1
    ]
    if not several:
        command = "nox -s bench_mpi -- -n 4 bench/test_speedup.py"
        return [Missing("No strategy has been measured on several numbers of workers", command)]
    return [
        _by_workers([m for m in several if m.cell.strategy in chunk], number)
        for number, chunk in enumerate(chunked(strategies_of(several), len(charts.SERIES)), 1)
    ]


def _same_but_workers(a: Measurement, b: Measurement) -> bool:
    return (a.cell.strategy, setting(a)) == (b.cell.strategy, setting(b))


def _by_workers(cells: Sequence[Measurement], number: int) -> Figure:
    series = Series("strategy", strategies_of(cells), "strategy")
    rows: list[Row] = [
        {
            "setting": setting(m),
            "strategy": m.cell.strategy,
            "workers": m.cell.workers,
            "speedup": m.speedup,
            "low": m.speedup_low,
            "high": m.speedup_high,
            "bound": m.bound,
            "threads": m.threads_speedup,
            "efficiency": m.efficiency,
            "efficiency_low": m.speedup_low / m.cell.workers,
            "efficiency_high": m.speedup_high / m.cell.workers,
            "serial_fraction": m.serial_fraction,
            "more_workers_than_cores": m.oversubscribed,
        }
        for m in sorted(cells, key=lambda m: m.cell.workers)
    ]
    settings = list(dict.fromkeys(map(setting, cells)))
    at = sorted({m.cell.workers for m in cells})
    best = max(most_workers(cells), key=lambda m: m.speedup)
    return Figure(
        id="speedup-by-workers" + (f"-{number}" if number > 1 else ""),
        title="What does each further worker bring?",
        measured=f"Medians of {rounds_of(cells, 'paired round')} of one launch, with their 95% "
        "interval, over plain training on one thread.",
        see=f"The nearer to the dashed line, the better: {best.cell.strategy} makes "
        f"{best.efficiency:.0%} of its {counted(best.cell.workers, 'worker')} ({setting(best)}). "
        "The dotted line is one process with all cores as threads. Hollow marks have more workers "
        "than cores, and their speed means nothing.",
        alt=f"Speedup, efficiency and serial fraction of {listed(series.names)} on "
        f"{listed(map(str, at))} workers.",
        rows=rows,
        charts={
            "speedup": [Panel(s, _lines(s, series, at)) for s in settings],
            "efficiency": [Panel(s, _efficiency(s, series, at)) for s in settings],
            "serial fraction": [Panel(s, _serial(s, series, at)) for s in settings],
        },
        series=series,
        records=cells,
    )


def _lines(name: str, series: Series, at: Sequence[int]) -> charts.Chart:
    ends = alt.InlineData(values=[{"workers": n, "speedup": n} for n in (at[0], at[-1])])
    ideal = alt.Chart(ends).mark_line(style="reference").encode(x="workers:Q", y="speedup:Q")
    threads = (
        charts.draw(setting=name)
        .mark_rule(style="reference", strokeDash=[1, 3])
        .encode(y=alt.Y("mean(threads):Q", title="speedup"))
    )
    marks = _marks(name, series, at, ("speedup", "speedup"), ("low", "high"))
    return charts.layers(ideal, threads, marks)


def _efficiency(name: str, series: Series, at: Sequence[int]) -> charts.Chart:
    ends = ("efficiency_low", "efficiency_high")
    return _marks(name, series, at, ("efficiency", "speedup / workers"), ends, ideal=1)


def _serial(name: str, series: Series, at: Sequence[int]) -> charts.Chart:
    return _marks(name, series, at, ("serial_fraction", "serial fraction (Karp and Flatt)"))


def _marks(
    name: str,
    series: Series,
    at: Sequence[int],
    value: tuple[str, str],
    ends: Sequence[str] = (),
    ideal: float | None = None,
) -> charts.Chart:
    also = ("speedup", "bound", "threads", "efficiency", "serial_fraction")
    drawn = charts.draw(setting=name)
    return charts.over_workers(drawn, series, at, value, ends, ideal, also)
