"""How a turn is timed: of all ranks, of rank 0 alone, of one process.

A rank that waits in MPI spins. Where it shares a core with the rank that is measured, it takes half
of that core's time; so ranks that take no part in a turn sleep. Every turn ends when no thread of
any rank that took part is running any more, so that it leaves the cores to the next one.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TypeAlias

import numpy as np
from mpi4py import MPI

from bench.core.cores import settle
from bench.core.turns import Contender, Turn, take_turns
from nn.batch import Batch
from strategies.comm.on_rank_0 import sleeping_barrier

LONGEST_TURN = 0.15
"""Seconds of a turn of contenders that are many times slower than those that set the pace."""

SHORTEST_CALLS = 0.02
"""Seconds of a turn of calls within one process, which needs no barrier."""

Work: TypeAlias = Callable[[int, int], object]
"""(number of the first step, number of steps): what is timed in a turn."""


def training(step: Callable[[Batch], object], batches: Sequence[Batch]) -> Work:
    """Work on the batches in order, again and again."""

    def run(first: int, steps: int) -> None:
        for i in range(first, first + steps):
            step(batches[i % len(batches)])

    return run


def together(comm: MPI.Intracomm, run: Work, first: int, steps: int) -> float:
    """Time `run(first, steps)` on all ranks: the slowest rank's seconds between two barriers."""
    run(first, 1)  # brings its data back into the caches
    comm.Barrier()
    start = time.perf_counter()
    run(first, steps)
    comm.Barrier()
    seconds = np.array([time.perf_counter() - start])
    settle()
    comm.Allreduce(MPI.IN_PLACE, seconds, MPI.MAX)
    return float(seconds[0])


def alone(comm: MPI.Intracomm, run: Work, first: int, steps: int, warm_up: int = 1) -> float:
    """Time `run(first, steps)` on rank 0 while the other ranks sleep.

    Args:
        warm_up: steps before that, which are not timed.
    """

    def timed() -> float:
        run(first, warm_up)
        start = time.perf_counter()
        run(first, steps)
        seconds = time.perf_counter() - start
        settle()
        return seconds

    return _told(comm, timed() if comm.rank == 0 else 0.0)


def among(comm: MPI.Intracomm, some: MPI.Intracomm, turn: Turn) -> Turn:
    """Make the turn of the first ranks of `comm`, while its other ranks sleep.

    Args:
        some: the communicator of the ranks that take part; COMM_NULL on the others.
        turn: is called on these ranks.
    """

    def run(first: int, steps: int) -> float:
        return _told(comm, turn(first, steps) if some != MPI.COMM_NULL else 0.0)

    return run


def _told(comm: MPI.Intracomm, seconds: float) -> float:
    """Return rank 0's seconds on every rank; those that come early sleep."""
    told = np.array([seconds])
    sleeping_barrier(comm)
    comm.Bcast(told)
    return float(told[0])


def clocked(call: Callable[[], object]) -> Turn:
    """Time a function of one process; one call now, untimed, lets it build what it keeps."""
    call()

    def turn(first: int, steps: int) -> float:
        start = time.perf_counter()
        for _ in range(steps):
            call()
        seconds = time.perf_counter() - start
        settle()
        return seconds

    return turn


def calls_in_turn(
    calls: Mapping[str, Callable[[], object]], rounds: int = 31
) -> dict[str, list[float]]:
    """Seconds per call of several functions of one process, in each round."""
    contenders = {name: Contender(clocked(call)) for name, call in calls.items()}
    return take_turns(contenders, rounds, shortest=SHORTEST_CALLS).per_step


def within(context: Callable[[], AbstractContextManager], turn: Turn) -> Turn:
    """Make the same turn within a context, which is entered each time."""

    def run(first: int, steps: int) -> float:
        with context():
            return turn(first, steps)

    return run


def bounded(turn: Turn, period: int = 1) -> Turn:
    """Make the same turn in whole periods, and in no more of them than last LONGEST_TURN.

    Its seconds are scaled to the steps that were asked for. A contender with more ranks than cores
    takes a hundred times as long as the others, and would use up the time of all. One that does
    something every `period` steps is timed with its share of it, neither more nor less.
    """
    per_step = 0.0

    def run(first: int, steps: int) -> float:
        nonlocal per_step
        few = steps
        if steps > period:
            per_step = per_step or turn(first, period) / period
            few = min(steps, math.ceil(LONGEST_TURN / per_step))
        few = period * math.ceil(few / period)
        per_step = turn(first, few) / few
        return per_step * steps

    return run
