"""Failing together: a rank that raises alone leaves the others waiting for it."""

from collections.abc import Callable
from typing import TypeVar

from mpi4py import MPI

T = TypeVar("T")


def raise_together(comm: MPI.Intracomm, act: Callable[[], T]) -> T:
    """What `act`, which does not communicate, returns here. Collective.

    Raises:
        Exception: what it raised on the first rank where it failed; on every rank.
    """
    error: Exception | None = None
    try:
        found = act()
    except Exception as failure:  # whatever it is, the other ranks must hear of it
        error = failure
    error = next(filter(None, comm.allgather(error)), None)
    if error:
        raise error
    return found
