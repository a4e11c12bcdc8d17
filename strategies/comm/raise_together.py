"""Failing together: a rank that raises alone leaves the others waiting for it."""

import copy
import pickle
from collections.abc import Callable
from typing import TypeVar

from mpi4py import MPI

T = TypeVar("T")


def raise_together(comm: MPI.Intracomm, act: Callable[[], T]) -> T:
    """Call `act`, which does not communicate, on every rank, and return its result. Collective.

    Raises:
        Exception, SystemExit: what it raised on the first rank where it failed; on every rank.
    """
    error: BaseException | None = None
    try:
        found = act()
    except (Exception, SystemExit) as failure:  # the other ranks must hear of it
        error = failure
    told = next(filter(None, comm.allgather(error and sendable(error))), None)
    if told:
        raise told from error
    return found


def sendable(error: BaseException) -> BaseException:
    """The error, or its text if its class cannot be pickled."""
    try:
        pickle.dumps(copy.deepcopy(error))  # the copy is made as the other ranks will make theirs
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
