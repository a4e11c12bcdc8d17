"""Empty tests, to measure what the layer itself costs."""

import json
import os
import time
from pathlib import Path

import psutil
import pytest
from mpi4py import MPI


@pytest.mark.parametrize("n", range(200))
def test_nothing(world: MPI.Comm, n: int) -> None:
    pass


@pytest.mark.workers(1)
def test_idle(comm: MPI.Comm) -> None:
    """Rank 0 measures how much of a core the sleeping ranks use."""
    table = Path(os.environ["PLANTED_LOG"])
    sleepers = [psutil.Process(p) for p in siblings()]
    before = [sum(s.cpu_times()[:2]) for s in sleepers]
    start = time.monotonic()
    time.sleep(5.0)
    seconds = time.monotonic() - start
    shares = [(sum(s.cpu_times()[:2]) - b) / seconds for s, b in zip(sleepers, before)]
    with table.open("a") as log:
        log.write(json.dumps({"shares": shares}) + "\n")


def siblings() -> list[int]:
    """Return the process ids of the other ranks: same parent, same command line."""
    me = psutil.Process()
    family = me.parent().children()
    return [p.pid for p in family if p.pid != me.pid and p.cmdline() == me.cmdline()]
