"""The arms of a cell, and how a turn is timed: of all ranks, of rank 0 alone, of one process.

============ ======================================================================================
sequential   plain training on rank 0, with one thread, while the other ranks sleep
parallel     the strategy, on all ranks
silent       the strategy without messages or shared memory: what the ranks compute, side by side
threads      plain training on rank 0, with all cores as threads, while the other ranks sleep
============ ======================================================================================

A rank that waits in MPI spins. Where it shares a core with the rank that is measured, it takes half
of that core's time; hence the sleep.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TypeAlias

import numpy as np
from mpi4py import MPI

from bench.core.cell import Case
from bench.core.cores import all_cores
from bench.core.silence import Silent
from bench.core.turns import Contender, Turn, take_turns
from nn.batch import Batch
from strategies.base import Strategy
from strategies.comm.on_rank_0 import sleeping_barrier

THREADS_EVERY = 3
"""The arm of threads takes part in one round of this many: the cores cool down after each turn."""

LONGEST_THREADS = 0.5
"""Seconds of a turn of threads, which lasts a hundred times as long where others use the cores."""

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


# How a turn is timed


def together(comm: MPI.Intracomm, run: Work, first: int, steps: int) -> float:
    """Time `run(first, steps)` on all ranks: the slowest rank's seconds between two barriers."""
    run(first, 1)  # brings its data back into the caches
    comm.Barrier()
    start = time.perf_counter()
    run(first, steps)
    comm.Barrier()
    seconds = np.array([time.perf_counter() - start])
    comm.Allreduce(MPI.IN_PLACE, seconds, MPI.MAX)
    return float(seconds[0])


def alone(comm: MPI.Intracomm, run: Work, first: int, steps: int) -> float:
    """Time `run(first, steps)` on rank 0 while the other ranks sleep."""
    seconds = np.zeros(1)
    if comm.rank == 0:
        run(first, 1)
        start = time.perf_counter()
        run(first, steps)
        seconds[0] = time.perf_counter() - start
    sleeping_barrier(comm)
    comm.Bcast(seconds)
    return float(seconds[0])


def clocked(call: Callable[[], object]) -> Turn:
    """Time a function of one process; one call now, untimed, lets it build what it keeps."""
    call()

    def turn(first: int, steps: int) -> float:
        start = time.perf_counter()
        for _ in range(steps):
            call()
        return time.perf_counter() - start

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


# The arms of a cell


def arms(
    case: Case,
    comm: MPI.Intracomm,
    sequential: Strategy,
    parallel: Strategy,
    without_messages: Strategy | None,
    silent: Silent,
) -> dict[str, Contender]:
    """The contenders of a cell; without "silent" if there is no strategy `without_messages`."""
    plain = training(sequential.step, case.batches)
    cores = all_cores if comm.rank == 0 else nullcontext

    def threads(first: int, steps: int) -> float:
        few = min(steps, math.ceil(LONGEST_THREADS / alone(comm, plain, first, 1)))
        return alone(comm, plain, first, few) * steps / few

    contenders = {
        "sequential": Contender(partial(alone, comm, plain)),
        "parallel": Contender(partial(together, comm, training(parallel.step, case.batches))),
        "threads": Contender(within(cores, threads), every=THREADS_EVERY, paces=False),
    }
    if without_messages:
        without_messages.step(case.batches[0])  # buffers of messages hold numbers from here on
        computing = training(without_messages.step, case.batches)

        turn = within(silent.silence, partial(together, comm, computing))
        contenders["silent"] = Contender(turn, paces=False)
    return contenders
