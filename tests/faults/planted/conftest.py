"""Log when a fault happens and when rank 0 reports it. The environment chooses the victim."""

import json
import os
import signal
import sys
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


def go_wrong(where: str) -> None:
    """Do what all_at_once.py is told to do, if it is told to do it here."""
    if os.environ.get("PLANTED_WHERE") == where:
        sys.modules["all_at_once"].WRONG()


def pytest_collection_modifyitems() -> None:
    go_wrong("modifyitems")


def pytest_sessionfinish() -> None:
    go_wrong("sessionfinish")


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
def write_log() -> Callable[..., None]:
    """A function that writes its arguments to the log."""
    return note


@pytest.fixture
def victim() -> int:
    """The world rank that goes wrong."""
    return VICTIM


@pytest.fixture
def faulty(victim: int, request: pytest.FixtureRequest) -> bool:
    """Whether this rank goes wrong. Asking for it logs the fault."""
    if victim == RANK:
        note(fault=request.node.name)
    return victim == RANK


@pytest.fixture
def next_death(request: pytest.FixtureRequest) -> str:
    """How this rank dies after ``victim`` has died; empty if it does not. It is logged."""
    death, _, rank = os.environ.get("PLANTED_NEXT", "").partition(" ")
    if death and int(rank) == RANK:
        note(fault=request.node.name)
        return death
    return ""
