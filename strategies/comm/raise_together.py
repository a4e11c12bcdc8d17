"""Failing together: a rank that raises alone leaves the others waiting for it."""

import pickle
from collections.abc import Callable
from typing import TypeVar

from mpi4py import MPI

T = TypeVar("T")


def raise_together(comm: MPI.Intracomm, act: Callable[[], T]) -> T:
    """Call `act`, which does not communicate, and raise on every rank what any rank raised.

    Collective. Returns what `act` returned on this rank.

    Raises:
        Exception: what `act` raised, on the first rank where it did; on every rank.
    """
    error: Exception | None = None
    try:
        found = act()
    except Exception as failure:  # whatever it is, the other ranks must hear of it
        error = sendable(failure)
    error = next(filter(None, comm.allgather(error)), None)
    if error:
        raise error
    return found


def sendable(error: Exception) -> Exception:
    """Return the error itself if it survives a message, else a RuntimeError that describes it."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(repr(error))
    return error
