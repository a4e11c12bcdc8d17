"""Notes when faults happen and when rank 0 reports them; chooses victims by environment."""

import json
import os
import time
from pathlib import Path

import pytest
from mpi4py import MPI

LOG = Path(os.environ["PLANTED_LOG"])
RANK = MPI.COMM_WORLD.rank


def note(**entry: object) -> None:
    with LOG.open("a") as log:
        log.write(json.dumps({"time": time.time(), "rank": RANK, **entry}) + "\n")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if RANK == 0:
        note(
            test=report.nodeid.split("::")[-1],
            when=report.when,
            outcome=report.outcome,
            text=str(report.longrepr or ""),
        )


@pytest.fixture
def victim() -> int:
    """The world rank that is to go wrong."""
    return int(os.environ["PLANTED_VICTIM"])


@pytest.fixture
def faulty(victim: int, request: pytest.FixtureRequest) -> bool:
    """Whether this rank goes wrong, which is noted."""
    if victim == RANK:
        note(fault=request.node.name)
    return victim == RANK
