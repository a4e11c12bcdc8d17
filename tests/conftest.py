"""Give tests data sets of their own, and write a record of every test, if nox runs the tests.

Tests, and the programs that they start, do not see the user's cache of data sets. All ranks share
the folder of the tests, which lasts from run to run and holds sets of the present code alone.

The environment variable LOCKSTEP_SESSION says that nox runs the tests, and names the run file.
Programs that tests start do not see it: their tests are no part of the run.
"""

import json
import os
import shutil
import time
from collections.abc import Callable, Generator
from dataclasses import asdict
from typing import Any

import pytest

from bench.report.proofs import Comparison, Proof
from bench.report.run_file import FOLDER, SESSION, header, new_path
from nn.data import cache
from strategies.records import Record, RunFile
from tests.ranks import groups
from tests.ranks.mpi import MPI
from tests.support import compared

RUN = pytest.StashKey[RunFile]()
WORKERS, COMPARISONS = "workers", "comparisons"
"""Properties of a report, by which the rank that ran a test tells rank 0 about it."""

SYNC = 1.0
"""Seconds between two records that are waited for until they are on the disk: with 5,000 tests,
each a millisecond or more, that would be felt. What is written in between survives the death of
the process, though not of the machine."""


def own_data_sets(config: pytest.Config) -> None:
    """Let data sets be kept in the tests' own folder."""
    folder = config.rootpath / ".pytest_cache" / "datasets"
    own = folder / cache.code()[:16]
    os.environ["LOCKSTEP_CACHE"] = str(own)
    if MPI.COMM_WORLD.rank == 0 and folder.is_dir():
        for other in set(folder.iterdir()) - {own}:
            shutil.rmtree(other, ignore_errors=True)


@pytest.hookimpl(trylast=True)  # bench/conftest.py has read the variable then
def pytest_configure(config: pytest.Config) -> None:
    own_data_sets(config)
    session = os.environ.pop(SESSION, "")
    if not session or config.option.collectonly:
        return
    size = MPI.COMM_WORLD.size
    run = RunFile(config.rootpath / new_path(session, FOLDER), lambda: header(session, size))
    config.stash[RUN] = run
    if MPI.COMM_WORLD.rank == 0:
        config.pluginmanager.register(Proofs(run), "lockstep-proofs")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    comparisons = compared.take()
    if RUN in item.config.stash and report.when == "setup":
        workers = groups.workers_of(item, MPI.COMM_WORLD.size)
        report.user_properties.append((WORKERS, workers))
    elif RUN in item.config.stash and report.when == "call":
        about = json.dumps([asdict(comparison) for comparison in comparisons])
        report.user_properties.append((COMPARISONS, about))
    return report


class Proofs:
    """Writes a record for each test that pytest reports on rank 0, whichever rank ran it."""

    def __init__(self, run: RunFile) -> None:
        self._run = run
        self._phases: dict[str, list[pytest.TestReport]] = {}
        self._synced = 0.0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._phases.setdefault(report.nodeid, []).append(report)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        reports = self._phases.pop(nodeid, [])
        if not reports:
            return
        sync = time.monotonic() > self._synced + SYNC
        self._run.append(proof(nodeid, reports), sync)
        if sync:
            self._synced = time.monotonic()


def proof(test: str, reports: list[pytest.TestReport]) -> Proof:
    """Sum up the phases of a test: failed if any of them failed."""
    by_outcome = {_outcome(report): report for report in reports}
    outcome = next(
        (o for o in ("failed", "skipped", "xfailed", "xpassed") if o in by_outcome), "passed"
    )
    properties = dict(p for report in reports for p in report.user_properties)
    return Proof(
        test,
        outcome,
        int(str(properties.get(WORKERS, 1))),
        sum(report.duration for report in reports),
        _reason(by_outcome[outcome]) if outcome in by_outcome else "",
        [Comparison(**c) for c in json.loads(str(properties.get(COMPARISONS, "[]")))],
    )


def _outcome(report: pytest.TestReport) -> str:
    if hasattr(report, "wasxfail"):
        return "xpassed" if report.passed else "xfailed"
    return report.outcome


def _reason(report: pytest.TestReport) -> str:
    if hasattr(report, "wasxfail"):
        return str(report.wasxfail)
    if isinstance(report.longrepr, tuple):
        return report.longrepr[2].removeprefix("Skipped: ")
    crash = getattr(report.longrepr, "reprcrash", None)
    return str(getattr(crash, "message", report.longrepr or "")).partition("\n")[0]


@pytest.fixture
def keep(pytestconfig: pytest.Config) -> Callable[[Record], Any]:
    """Keep a record in the run file of the session, if nox runs the tests."""
    run = pytestconfig.stash.get(RUN, None)
    return run.append if run else lambda record: None
