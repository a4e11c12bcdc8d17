"""Measure a cell: is its strategy right, and how much faster is it than one process?

Four phases, which bench/README.md explains: check, calibration, rounds, profile.
"""

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from mpi4py import MPI

from bench.core.arms import arms
from bench.core.cell import Case, Measurement
from bench.core.check import WrongTraining
from bench.core.metering import Metered
from bench.core.silence import Silent
from bench.core.turns import take_turns

ROUNDS = (5, 15)
"""Fewest and most rounds of a cell."""


def measure(
    case: Case, comm: MPI.Intracomm, seconds: float = 2.0, steps: int | None = None
) -> Measurement:
    """Check a cell, then measure it. Collective over `comm`; the same result on every rank.

    Args:
        case: what to build and train, the same on every rank.
        comm: the workers.
        seconds: to spend on the rounds, as far as the limits of ROUNDS allow.
        steps: in a round; by default as many as make the shorter of the sequential and the parallel
            arm last `turns.SHORTEST_TURN`.

    Raises:
        WrongTraining: the check has failed; on every rank.
        ValueError: `comm` does not have as many ranks as the cell has workers, or there are no
            batches, or no steps.
    """
    cell = case.cell
    if comm.size != cell.workers:
        raise ValueError(f"a cell of {cell.workers} workers on a communicator of {comm.size}")
    if not case.batches:
        raise ValueError(f"no batch of {cell.batch_size} rows in {cell.dataset_size} rows")
    sequential, parallel = case.sequential(), case.build(comm)
    check = case.check(parallel, sequential, case.check_batches, comm)
    if check.problem:
        parallel.close()
        raise WrongTraining(cell, check)

    silent = Silent(comm)
    with silent.private_memory():
        without_messages = case.build(silent) if case.runs_silent else None
    contenders = arms(case, comm, sequential, parallel, without_messages, silent)
    with _no_garbage_collection():
        rounds = take_turns(contenders, ROUNDS, steps=steps, seconds=seconds)
        shares = profile(case, comm, rounds.steps)
    parallel.close()
    if without_messages:
        without_messages.close()
    return Measurement.of(cell, rounds.seconds, rounds.steps, check, shares)


def profile(case: Case, comm: MPI.Intracomm, steps: int) -> dict[str, list[float]]:
    """Train so many steps and see where the time of each rank goes. Collective.

    Returns:
        For every rank, the shares of the whole time that went to "compute", "communication" and
        "waiting", and "bytes_sent" per step.
    """
    metered = Metered(comm)
    record = metered.record
    strategy = case.build(metered)
    strategy.step(case.batches[0])
    comm.Barrier()
    record.clear()
    start = time.perf_counter()
    with metered.timed_requests():
        for i in range(steps):
            strategy.step(case.batches[i % len(case.batches)])
    total = time.perf_counter() - start
    waiting, communication = record.waiting / total, record.communication / total
    mine = np.array([1 - waiting - communication, communication, waiting])
    mine = np.append(mine, sum(record.sent.values()) / steps)
    strategy.close()
    everyone = np.empty((comm.size, len(mine)))
    comm.Allgather(mine, everyone)
    names = ("compute", "communication", "waiting", "bytes_sent")
    return dict(zip(names, everyone.T.tolist()))


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
