"""Communicators with something in place of every call: the common part of silence and metering.

A strategy is built on them as on any other communicator, and need not know. A communicator that is
derived from one (by Split, Dup, Create_cart, ...) is of the same kind and shares its record.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

SENDS = ("Send", "Bsend", "Rsend", "Ssend", "Isend", "Ibsend", "Irsend", "Issend")
RECEIVES = ("Recv", "Irecv")
EXCHANGES = ("Sendrecv", "Sendrecv_replace")
GATHERS = ("Gather", "Gatherv", "Allgather", "Allgatherv")
REDUCTIONS = ("Reduce", "Allreduce", "Reduce_scatter", "Reduce_scatter_block", "Scan", "Exscan")
BLOCKING = ("Bcast", *REDUCTIONS, *GATHERS, "Scatter", "Scatterv", "Alltoall", "Alltoallv")
COLLECTIVES = (*BLOCKING, *(f"I{name.lower()}" for name in BLOCKING))

VERBS = ("Barrier", "Ibarrier", *SENDS, *RECEIVES, *EXCHANGES, *COLLECTIVES)
"""The methods that are replaced: those for buffers, and none for Python objects (lower case)."""

_DERIVING = (
    *("Clone", "Create", "Create_cart", "Create_group"),
    *("Dup", "Split", "Split_type", "Sub"),
)


class Instrumented:
    """Mixin for mpi4py's communicators: every verb calls `_verb`, every derivation `_derived`.

    Attributes:
        record: what the communicators of one family share.
        kinds: the class of a derived communicator, by the class of mpi4py that it has:
            `MPI.Intracomm` or `MPI.Cartcomm`.
    """

    record: Any
    kinds: ClassVar[dict[type, type]]

    def __new__(cls, comm=None, record=None):
        self = super().__new__(cls, comm)
        self.record = record
        return self

    def _verb(self, name: str, real: Callable, args: tuple, kwargs: dict) -> Any:
        """Do in place of a verb; `real` is the method of mpi4py."""
        return real(*args, **kwargs)

    def _derived(self, real: Callable, args: tuple, kwargs: dict) -> Any:
        """Derive a communicator with `real`, and make it one of the family."""
        comm = real(*args, **kwargs)
        if comm == MPI.COMM_NULL:
            return MPI.COMM_NULL
        base = MPI.Cartcomm if isinstance(comm, MPI.Cartcomm) else MPI.Intracomm
        return self.kinds[base](comm, self.record)


def _install(names: tuple[str, ...], wrap: Callable[[str], Callable]) -> None:
    for name in names:
        setattr(Instrumented, name, wrap(name))


def _verb_method(name: str) -> Callable:
    def method(self, *args, **kwargs):
        return self._verb(name, getattr(super(Instrumented, self), name), args, kwargs)

    return method


def _deriving_method(name: str) -> Callable:
    def method(self, *args, **kwargs):
        return self._derived(getattr(super(Instrumented, self), name), args, kwargs)

    return method


_install(VERBS, _verb_method)
_install(_DERIVING, _deriving_method)


def argument(args: tuple, kwargs: dict, position: int, name: str, default: Any = None) -> Any:
    """An argument of a call, given by position or by name."""
    return args[position] if len(args) > position else kwargs.get(name, default)


def array(spec: Any) -> NDArray | None:
    """The memory of a buffer argument of mpi4py: [buffer, counts, ..., datatype], or bare."""
    if spec is None or spec is MPI.IN_PLACE:
        return None
    return np.asarray(spec[0] if isinstance(spec, list | tuple) else spec)
