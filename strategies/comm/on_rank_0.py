"""Work that one rank does for all, while the others sleep."""

import time
from collections.abc import Callable
from typing import TypeVar

from mpi4py import MPI

from strategies.comm.raise_together import sendable

T = TypeVar("T")


def on_rank_0(comm: MPI.Intracomm, act: Callable[[], T]) -> T:
    """Call `act`, which does not communicate, on rank 0, and return its result on every rank.

    Collective. The other ranks sleep meanwhile, so that rank 0 has the processor to itself.

    Raises:
        Exception, SystemExit: what `act` raised; on every rank.
    """
    result: T | None = None
    error: BaseException | None = None
    if comm.rank == 0:
        try:
            result = act()
        except (Exception, SystemExit) as failure:  # the other ranks must hear of it
            error = failure
    sleeping_barrier(comm)
    result, told = comm.bcast((result, error and sendable(error)))
    if told:
        raise told from error
    return result


def sleeping_barrier(comm: MPI.Intracomm) -> None:
    """Wait until every rank has come, and sleep meanwhile, where a barrier of MPI would spin."""
    if not hasattr(comm, "Ibarrier"):
        comm.Barrier()  # torch.distributed does not spin
        return
    request = comm.Ibarrier()
    nap = 5e-5
    while not request.Test():
        time.sleep(nap)
        nap = min(1.2 * nap, 5e-3)
