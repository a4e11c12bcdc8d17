"""Turns of whole runs that rank 0 makes, with processes of its own, while the other ranks sleep."""

import time
from collections.abc import Callable

import numpy as np
import psutil
from mpi4py import MPI

from bench.core.turns import Contender
from strategies.comm.on_rank_0 import sleeping_barrier


def whole_run(comm: MPI.Intracomm, run: Callable[[], object]) -> Contender:
    """Make a contender whose turn is one call of `run` on rank 0. Collective.

    Time it with `take_turns(..., steps=1)`: a whole run is long enough.
    """

    def turn(first: int, steps: int) -> float:
        seconds = np.zeros(1)
        if comm.rank == 0:
            start = time.perf_counter()
            for _ in range(steps):
                run()
            seconds[0] = time.perf_counter() - start
        sleeping_barrier(comm)
        comm.Bcast(seconds)
        return float(seconds[0])

    return Contender(turn)


def children() -> set[int]:
    """The numbers of the processes that this process has started, and that run."""
    return {child.pid for child in psutil.Process().children()}
