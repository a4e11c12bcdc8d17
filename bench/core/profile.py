"""Where the time of a step goes, and how long single steps and their operations take."""

import time

import numpy as np
from mpi4py import MPI

from bench.core.cell import Case
from bench.core.metering import Metered
from strategies.base import Strategy
from strategies.sharding.stages import StagedModel

STEPS = (20, 200)
"""Fewest and most single steps that are timed."""

WATCHED = 9
"""Steps of a pipeline, of which the one of median length is shown."""


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


def single_steps(
    strategy: Strategy, case: Case, comm: MPI.Intracomm, seconds: float
) -> dict[str, float]:
    """Time single steps, as many as last about `seconds`, within the limits of STEPS. Collective.

    Synchronous training runs at the pace of its slowest steps, which a mean hides.

    Returns:
        "p50", "p95" (quantiles) and "max" of the seconds of a step on its slowest rank.
    """
    step, batches = strategy.step, case.batches
    step(batches[0])
    begin = time.perf_counter()
    step(batches[0])
    fitting = comm.allreduce(seconds / (time.perf_counter() - begin), MPI.MIN)
    times = np.empty(int(np.clip(fitting, *STEPS)))
    for i in range(len(times)):
        begin = time.perf_counter()
        step(batches[i % len(batches)])
        times[i] = time.perf_counter() - begin
    comm.Allreduce(MPI.IN_PLACE, times, MPI.MAX)
    p50, p95 = np.quantile(times, (0.5, 0.95))
    return {"p50": float(p50), "p95": float(p95), "max": float(times.max())}


Operation = tuple[str, int, int, float, float]
"""Kind ("F" or "B"), stage, micro-batch, and the seconds of a step at its begin and its end."""


def operations(strategy: Strategy, case: Case, comm: MPI.Intracomm) -> list[list[Operation]]:
    """Time every operation of a step of a pipeline. Collective.

    A step begins when the ranks leave a barrier, and each rank counts from there: clocks of other
    hosts need not agree.

    Returns:
        For every rank its operations in order, of the step of median length among WATCHED; nothing
        if the strategy is no pipeline.
    """
    staged = getattr(strategy, "model", None)
    if not isinstance(staged, StagedModel):
        return []
    seen: list[list[Operation]] = []
    for i in range(WATCHED):
        comm.Barrier()
        start = time.perf_counter()
        strategy.step(case.batches[i % len(case.batches)])
        seen.append([(*op, began - start, ended - start) for op, began, ended in staged.timeline])
    lengths = np.array([max(end for *_, end in step) for step in seen])
    comm.Allreduce(MPI.IN_PLACE, lengths, MPI.MAX)
    return comm.allgather(seen[np.argsort(lengths)[WATCHED // 2]])
