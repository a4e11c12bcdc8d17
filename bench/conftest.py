"""What benchmarks share: a cell is measured, kept on disk, shown, and given to pytest-benchmark.

Every benchmark file asks one question; the first line of its docstring is that question.
"""

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
from mpi4py import MPI

from bench.core import grid
from bench.core.background_load import BackgroundLoad, slowdown
from bench.core.cell import Case, Cell, Measurement
from bench.core.check import WrongTraining
from bench.core.measure import measure
from bench.report.progress import Progress
from bench.report.results import Ratio, append, replay
from bench.report.table import render

HERE = Path(__file__).parent
RESULTS = pytest.StashKey[dict[str, list[Any]]]()
LINES = pytest.StashKey[Path]()
FIRST = "test_speedup"
"""The main question: its cells are there even if the run is ended early."""

MIN_WIDTH = 120
PROGRESS = pytest.StashKey[Progress]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("lockstep")
    group.addoption("--quick", action="store_true", help="a small grid, for a first look")
    group.addoption(
        "--cells", action="store_true", help="only what measures cells, which the gate compares"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "full: not part of the --quick grid")
    config.stash[RESULTS] = {}
    config.stash[LINES] = _lines(config)
    if not config.option.benchmark_compare:
        config.option.benchmark_quiet = True  # its table knows times only; ours follows


def _lines(config: pytest.Config) -> Path:
    """Where cells go as soon as they are measured: LOCKSTEP_CELLS, or beside saved benchmarks."""
    if path := os.environ.get("LOCKSTEP_CELLS"):
        return Path(path)
    storage = str(config.option.benchmark_storage)
    folder = Path(storage.removeprefix("file://")) if storage.startswith("file://") else Path()
    return folder / "lockstep" / f"cells-{time.strftime('%Y%m%d-%H%M%S')}.jsonl"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    def left_out(item: pytest.Item) -> bool:
        too_much = config.option.quick and item.get_closest_marker("full")
        no_cell = config.option.cells and "speedup" not in getattr(item, "fixturenames", ())
        return bool(too_much or no_cell)

    if dropped := [item for item in items if left_out(item)]:
        items[:] = [item for item in items if item not in dropped]
        config.hook.pytest_deselected(items=dropped)
    items.sort(key=lambda item: item.path.parent == HERE and item.path.stem != FIRST)
    ours = [item for item in items if item.path.is_relative_to(HERE)]
    for item in ours:
        item.add_marker(pytest.mark.benchmark(timer=replay, group=_question(item)))
        item.add_marker(pytest.mark.deadline(300))
        item.add_marker(pytest.mark.alone)  # what is measured is never shared out
        # Ranks that do not take part set the fixture up, and never use it.
        item.add_marker(pytest.mark.filterwarnings("ignore:Benchmark fixture was not used"))
    terminal = config.pluginmanager.get_plugin("terminalreporter")
    assert terminal is not None
    progress = Progress(terminal)
    progress.plan(ours)
    config.stash[PROGRESS] = progress
    config.pluginmanager.register(progress, "lockstep-progress")


def _question(item: pytest.Item) -> str:
    doc = item.getparent(pytest.Module).obj.__doc__ or item.path.stem  # type: ignore[union-attr]
    return doc.splitlines()[0].strip()


@pytest.fixture
def record(
    request: pytest.FixtureRequest, comm: MPI.Intracomm, benchmark: Any
) -> Callable[..., None]:
    """Show a result in the table of this file's question, and give rounds to pytest-benchmark."""

    def record(result: Any, said: str, seconds: list[float], extra: dict[str, Any]) -> None:
        stash = request.config.stash
        stash[RESULTS].setdefault(_question(request.node), []).append(result)
        stash[PROGRESS].said[request.node.nodeid] = said
        benchmark.extra_info.update(extra)
        if seconds:
            replay.load(seconds)
            benchmark.pedantic(lambda: None, rounds=len(seconds), iterations=1)

    return record


@pytest.fixture
def lap(comm: MPI.Intracomm) -> Callable[[], float]:
    """Ends a lap: cores' worth of time that other programs used in it, the same on every rank.

    The first lap begins with the fixture. Not for within a timing: rank 0 asks for every process.
    """
    if comm.rank > 0:
        return lambda: comm.bcast(None)
    launched = MPI.COMM_WORLD.size > 1
    load = BackgroundLoad(psutil.Process(os.getppid() if launched else None))
    return lambda: comm.bcast(load.lap())


@pytest.fixture
def promise(
    comm: MPI.Intracomm, record: Callable[..., None], lap: Callable[[], float]
) -> Callable[..., None]:
    """Record a ratio, and hold it against its limit, if any.

    If it is one of times, their rounds are `seconds`, and those of the last lap, in which `cores`
    were to be had, by default one a rank.
    """

    def promise(
        what: str,
        value: float,
        limit: float | None,
        seconds: Sequence[float] = (),
        cores: int | None = None,
        **extra: Any,
    ) -> None:
        ratio = Ratio(what, float(value), limit)
        extra |= {"ratio": float(value), "limit": limit}
        record(ratio, f"{value:.3f}", list(seconds), extra)
        hold([ratio], lap() if seconds else 0.0, cores or comm.size)

    return promise


def hold(ratios: Sequence[Ratio], foreign: float, workers: int) -> None:
    """Fail if a promise is not kept; skip if others, who used the cores, explain all of it.

    Args:
        ratios: of times; what others do excuses no other kind.
        foreign: cores' worth of time that other programs used meanwhile.
    """
    excused, broken = [], []
    for ratio in ratios:
        if ratio.limit is None or ratio.kept:
            continue
        said = f"{ratio.what}: {ratio.value:.3f}, promised is at most {ratio.limit:.3f}"
        most = ratio.limit * slowdown(foreign, workers)
        if ratio.value <= most:
            excused.append(f"{said}, but other programs kept {foreign:.1f} cores busy: try again")
        elif most > ratio.limit:
            busy = f"while others keep {foreign:.1f} cores busy"
            broken.append(f"{said}, and no more than {most:.3f} {busy}")
        else:
            broken.append(said)
    if broken:
        pytest.fail("\n".join(broken), pytrace=False)
    if excused:
        pytest.skip("\n".join(excused))


@pytest.fixture
def speedup(
    request: pytest.FixtureRequest, comm: MPI.Intracomm, record: Callable[..., None]
) -> Callable[..., Measurement]:
    """Measure a cell and keep it everywhere; a cell that is wrong fails and is not kept.

    The id of a cell begins with the `TOPIC` of the test's module. Baselines compare cells by it, so
    it stays what it is wherever the file goes.
    """

    def speedup(cell: Cell, case: Case | None = None, **options: Any) -> Measurement:
        try:
            result = measure(case or grid.case(cell), comm, **options)
        except WrongTraining as wrong:
            record(wrong, "WRONG", [], {})
            pytest.fail(str(wrong), pytrace=False)
        public = result.as_dict()
        if comm.rank == 0:
            line = {"id": f"{request.module.TOPIC}/{cell}", "nodeid": request.node.nodeid, **public}
            append(request.config.stash[LINES], line)
        record(result, f"{result.speedup:.2f}x", result.rounds["parallel"], public)
        return result

    return speedup


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    config = terminalreporter.config
    if not (results := config.stash[RESULTS]):
        return
    # mpiexec gives its ranks a terminal of no particular width, whatever its own output is.
    width = max(MIN_WIDTH, int(os.environ.get("COLUMNS", "0")))
    terminalreporter.ensure_newline()
    terminalreporter.section("does it pay here?", bold=True)
    terminalreporter.write(render(results, width, terminalreporter.hasmarkup))
    if config.stash[LINES].exists():
        terminalreporter.write_line(f"cells, as measured: {config.stash[LINES]}")
