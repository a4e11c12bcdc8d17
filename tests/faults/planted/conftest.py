"""Notes when faults happen and when rank 0 reports them; chooses victims by environment."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from mpi4py import MPI

from tests.ranks import shares

shares.MEET_EVERY = float(os.environ.get("PLANTED_MEET_EVERY", shares.MEET_EVERY))
LOG = Path(os.environ["PLANTED_LOG"])
RANK = MPI.COMM_WORLD.rank
VICTIM = int(os.environ["PLANTED_VICTIM"])


def note(**entry: object) -> None:
    with LOG.open("a") as log:
        log.write(json.dumps({"time": time.time(), "rank": RANK, **entry}) + "\n")


def pytest_collection() -> None:
    if "PLANTED_CLASH" in os.environ and VICTIM == RANK:
        note(fault="collection")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if RANK == 0:
        note(
            test=report.nodeid.split("::")[-1],
            when=report.when,
            outcome=report.outcome,
            text=str(report.longrepr or ""),
        )


def pytest_runtest_logfinish(nodeid: str) -> None:
    last = nodeid.endswith("test_everyone_left")
    if last and VICTIM == RANK and os.environ["PLANTED_DEATH"] == "between_tests":
        note(fault="between_tests")
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture(scope="session")
def noted() -> Callable[..., None]:
    """Writes what it is given into the log."""
    return note


@pytest.fixture
def victim() -> int:
    """The world rank that is to go wrong."""
    return VICTIM


@pytest.fixture
def faulty(victim: int, request: pytest.FixtureRequest) -> bool:
    """Whether this rank goes wrong, which is noted."""
    if victim == RANK:
        note(fault=request.node.name)
    return victim == RANK


@pytest.fixture
def next_death(request: pytest.FixtureRequest) -> str:
    """The death of which this rank is to die after ``victim`` has, or nothing; noted."""
    death, _, rank = os.environ.get("PLANTED_NEXT", "").partition(" ")
    if death and int(rank) == RANK:
        note(fault=request.node.name)
        return death
    return ""
