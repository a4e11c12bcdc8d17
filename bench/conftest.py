"""What benchmarks share: a result is kept on disk, shown in a table, and given to pytest-benchmark.

Every benchmark file asks one question; the first line of its docstring is that question.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from mpi4py import MPI

from bench.core import grid
from bench.core.background_load import laps
from bench.core.cell import Case, Cell, Measurement
from bench.core.check import WrongTraining
from bench.core.machine_state import State
from bench.core.race import measure
from bench.races import PlannedRace, plan
from bench.report.kinds import WrongCell
from bench.report.progress import Progress
from bench.report.promises import Promise, made
from bench.report.replay import replay
from bench.report.run_file import SESSION, drawn_by, header, new_path
from bench.report.table import MIN_WIDTH, render
from strategies.catalog import CATALOG
from strategies.records import Record, RunFile, read

HERE = Path(__file__).parent
RUN = pytest.StashKey[RunFile]()
FIRST = "test_speedup"
"""The main question: its cells are there even if the run is ended early."""

DEADLINE = 300
"""Seconds that a benchmark may take, and a race for each of its cells."""

PROGRESS = pytest.StashKey[Progress]()
RACES = pytest.StashKey[dict[str, PlannedRace]]()
"""Node id of a test -> the race of the cell that it measures."""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("lockstep")
    group.addoption("--quick", action="store_true", help="a small grid, for a first look")
    group.addoption(
        "--cells", action="store_true", help="only what measures cells, which the gate compares"
    )
    group.addoption(
        "--details", action="store_true", help="more columns and intervals in the tables of cells"
    )
    group.addoption(
        "--promises", action="store_true", help="only promises, and fail where one is not kept"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    config.stash[RUN] = _run_file(config)
    if not config.option.benchmark_compare:
        config.option.benchmark_quiet = True  # its table knows times only; ours follows


def _run_file(config: pytest.Config) -> RunFile:
    """Make the file for results: LOCKSTEP_CELLS, or else one beside the saved benchmarks."""
    session, devices = os.environ.get(SESSION, "bench"), config.option.device or ["cpu"]
    storage = str(config.option.benchmark_storage)
    folder = Path(storage.removeprefix("file://")) if storage.startswith("file://") else Path()
    # The gate reads cells from its file while they come.
    path = os.environ.get("LOCKSTEP_CELLS") or new_path(session, folder / "lockstep")
    return RunFile(path, lambda: header(session, MPI.COMM_WORLD.size, devices))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    def left_out(item: pytest.Item) -> bool:
        too_much = config.option.quick and item.get_closest_marker("full")
        fixtures = getattr(item, "fixturenames", ())
        no_cell = config.option.cells and "speedup" not in fixtures
        no_promise = config.option.promises and "promise" not in fixtures
        return bool(too_much or no_cell or no_promise)

    def shown_twice(item: pytest.Item) -> bool:
        race = races.get(item.nodeid)
        return race is not None and item.nodeid not in race.tests.values()

    kept = [item for item in items if not left_out(item)]
    kept.sort(key=lambda item: item.path.parent == HERE and item.path.stem != FIRST)
    races = plan([item for item in kept if item.path.is_relative_to(HERE)], MPI.COMM_WORLD.size)
    if config.option.cells:  # for the gate, two cells are two samples
        kept = [item for item in kept if not shown_twice(item)]
    if dropped := [item for item in items if item not in kept]:
        config.hook.pytest_deselected(items=dropped)
    items[:] = kept
    config.stash[RACES] = races
    ours = [item for item in items if item.path.is_relative_to(HERE)]
    for item in ours:
        item.add_marker(pytest.mark.benchmark(timer=replay, group=_question(item)))
        cells = len(races[item.nodeid].cases) if item.nodeid in races else 1
        item.add_marker(pytest.mark.deadline(DEADLINE * cells))
        item.add_marker(pytest.mark.alone)  # what is measured is never shared out
        # Ranks that do not take part set the fixture up, and never use it.
        item.add_marker(pytest.mark.filterwarnings("ignore:Benchmark fixture was not used"))
        if item.nodeid in races:
            item.add_marker(pytest.mark.ranks(races[item.nodeid].workers))
    terminal = config.pluginmanager.get_plugin("terminalreporter")
    assert terminal is not None
    progress = Progress(terminal)
    progress.plan(ours, {node: id(race) for node, race in races.items()})
    config.stash[PROGRESS] = progress
    config.pluginmanager.register(progress, "lockstep-progress")


def _question(item: pytest.Item) -> str:
    doc = item.getparent(pytest.Module).obj.__doc__ or item.path.stem  # type: ignore[union-attr]
    return doc.splitlines()[0].strip()


@pytest.fixture
def record(
    request: pytest.FixtureRequest, comm: MPI.Intracomm, benchmark: Any
) -> Callable[..., None]:
    """Keep a result on disk, and give its rounds to pytest-benchmark."""
    return partial(keep, request.node, comm, benchmark)


def keep(
    node: pytest.Item,
    comm: MPI.Intracomm,
    benchmark: Any,
    result: Record,
    said: str = "",
    seconds: Sequence[float] = (),
    extra: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Do what the fixture `record` does, for the benchmark `node`."""
    stash = node.config.stash
    if comm.rank == 0:
        about: dict[str, Any] = {"question": _question(node), "nodeid": node.nodeid}
        if seconds and not isinstance(result, Measurement):  # which has all of its rounds
            about["round_seconds"] = list(seconds)
        stash[RUN].append({**extra, **result.as_dict(), **about})
    stash[PROGRESS].said[node.nodeid] = said
    benchmark.extra_info.update(extra)
    if seconds:
        replay.load(seconds)
        benchmark.pedantic(lambda: None, rounds=len(seconds), iterations=1)


@pytest.fixture
def lap(comm: MPI.Intracomm) -> Callable[[], float]:
    """End a lap, and return its background load: see `laps`. The first begins with the fixture."""
    return laps(comm)


@pytest.fixture
def promise(
    comm: MPI.Intracomm,
    record: Callable[..., None],
    lap: Callable[[], float],
    pytestconfig: pytest.Config,
) -> Iterator[Callable[..., None]]:
    """Record a ratio with its limit, if any.

    With `--promises` the test fails if one of its ratios is not kept, after all are recorded.
    """
    found: list[Promise] = []
    yield partial(promised, comm, record, lap, found)
    if pytestconfig.option.promises:
        hold(found)


def promised(
    comm: MPI.Intracomm,
    record: Callable[..., None],
    lap: Callable[[], float],
    found: list[Promise],
    what: str,
    value: float,
    limit: float | None = None,
    seconds: Sequence[float] = (),
    cores: int | None = None,
    machine: State | None = None,
    **extra: Any,
) -> None:
    """Do what the fixture `promise` does, and add the ratio to those that were `found`.

    A ratio of times comes with its rounds, `seconds`, which were measured on `cores` cores, by
    default one for each rank, in the last lap or in a race that looked at the `machine`.
    """
    state = machine or {"background_load": [lap() if seconds else 0.0]}
    found.append(made(what, value, limit, cores or comm.size, state))
    extra |= {"ratio": float(value), "limit": limit}
    record(found[-1], f"{value:.3f}", list(seconds), extra)


def hold(promises: Sequence[Promise]) -> None:
    """Fail if a promise is broken; skip if other programs explain all that are not kept."""
    broken = [each.verdict for each in promises if not (each.kept or each.excused)]
    excused = [each.verdict for each in promises if each.excused]
    if broken:
        pytest.fail("\n".join(broken), pytrace=False)
    if excused:
        pytest.skip("\n".join(excused))


@pytest.fixture
def speedup(
    request: pytest.FixtureRequest, comm: MPI.Intracomm, record: Callable[..., None]
) -> Callable[..., Measurement]:
    """Measure a cell and keep it; a cell that trains wrong is not measured, and fails.

    The id of a cell begins with the `TOPIC` of the test's module. Baselines compare cells by it, so
    it stays the same wherever the file goes.
    """
    race = request.config.stash[RACES].get(request.node.nodeid)
    return partial(measure_and_keep, request.module.TOPIC, comm, record, race)


def measure_and_keep(
    topic: str,
    comm: MPI.Intracomm,
    record: Callable[..., None],
    race: PlannedRace | None,
    cell: Cell,
    case: Case | None = None,
    **options: Any,
) -> Measurement:
    """Do what the fixture `speedup` does, for a module whose `TOPIC` is given.

    A cell that was planned is raced with the others of its `race`, any other cell alone.
    """
    if case is None and cell.workers < (fewest := CATALOG[cell.strategy].fewest_ranks):
        pytest.skip(f"{cell.strategy} needs {fewest} workers")
    try:
        if race and cell in race.cases:
            result = race.measurement(cell, comm)
        else:
            result = measure(case or grid.case(cell), comm, **options)
    except WrongTraining as wrong:
        record(WrongCell(wrong.cell, wrong.check.error, wrong.check.problem), "WRONG", [], {})
        pytest.fail(str(wrong), pytrace=False)
    public = {"id": f"{topic}/{cell}", **result.as_dict()}
    public["background_load"] = result.background_load
    record(result, f"{result.speedup:.2f}x", result.rounds["parallel"], public)
    return result


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    config = terminalreporter.config
    path = config.stash[RUN].path
    if MPI.COMM_WORLD.rank > 0 or not path.exists():
        return
    # mpiexec gives its ranks a terminal of no particular width, whatever its own output is.
    width = max(MIN_WIDTH, int(os.environ.get("COLUMNS", "0")))
    terminalreporter.ensure_newline()
    terminalreporter.section("does it pay here?", bold=True)
    tables = render(read(path), width, terminalreporter.hasmarkup, config.option.details)
    terminalreporter.write(tables)
    terminalreporter.write_line(f"results, as measured: {path}")
    terminalreporter.write_line(f"as pictures: {drawn_by(path)}")
