"""A communicator that can fall silent, to measure what ranks compute when messages cost nothing."""

from __future__ import annotations

import mmap
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from bench.core.instrumented import COLLECTIVES, RECEIVES, Instrumented, argument, array

PAGE = mmap.PAGESIZE
"""Bytes."""


@dataclass
class _Hush:
    """Whether communicators of one family are silent, and the arrays that they know."""

    silent: bool = False
    known: dict[tuple[int, int], weakref.ref[NDArray]] = field(default_factory=dict)
    """(address, bytes) -> the array there. The same place may belong to another array later."""


class _Silencing(Instrumented):
    record: _Hush

    @contextmanager
    def silence(self) -> Iterator[None]:
        """A context in which nothing is communicated, and no rank waits for another."""
        self.record.silent = True
        # What is computed from zeros and stale numbers means nothing, and may overflow.
        try:
            with np.errstate(all="ignore"):
                yield
        finally:
            self.record.silent = False

    def _verb(self, name, real, args, kwargs):
        if not self.record.silent:
            return real(*args, **kwargs)
        known = self.record.known
        for target in _received(self, name, args, kwargs):
            place, owner = (target.ctypes.data, target.nbytes), _owner(target)
            if place not in known or known[place]() is not owner:
                known[place] = weakref.ref(owner)
                target.fill(0)
        return MPI.Request() if name.startswith("I") else None


class Silent(_Silencing, MPI.Intracomm):
    """`comm` with a switch: within `silence()` its verbs do nothing and return at once.

    An array that would have received data is left as it is, or set to 0 when it is met for the
    first time: fresh memory may hold anything, and arithmetic on denormal numbers is slow.
    """

    def __new__(cls, comm: MPI.Intracomm | None = None, record: _Hush | None = None):
        return super().__new__(cls, comm, record or _Hush())

    @contextmanager
    def private_memory(self) -> Iterator[None]:
        """A context in which a window shared among these ranks gives each of them its own memory.

        Writing to memory that another rank reads is communication too; with memory of its own no
        rank has to fetch anything. At the end of the block every rank gets what rank 0 has written
        to its memory. Collective.
        """
        made: list[MPI.Win] = []

        class PrivateWindow(MPI.Win):
            @classmethod
            def Allocate_shared(cls, size, disp_unit=1, info=MPI.INFO_NULL, comm=MPI.COMM_SELF):
                whole = comm.allreduce(size)
                window = super().Allocate_shared(whole + PAGE, disp_unit, info, MPI.COMM_SELF)
                _memory(window).fill(0)
                made.append(window)
                return window

            def Shared_query(self, rank):
                # Shared memory begins on a page, and so on the same byte of a line on every rank.
                memory, unit = super().Shared_query(0)
                start = -memory.address % PAGE
                return memory[start : start + memory.nbytes - PAGE], unit

        with mock.patch.object(MPI, "Win", PrivateWindow):
            yield
        for window in made:
            self.Bcast(_memory(window))


class _SilentCart(_Silencing, MPI.Cartcomm):
    pass


_Silencing.kinds = {MPI.Intracomm: Silent, MPI.Cartcomm: _SilentCart}


def _memory(window: MPI.Win) -> NDArray:
    return np.frombuffer(window.Shared_query(0)[0], np.uint8)  # type: ignore[call-overload]


def _owner(view: NDArray) -> NDArray:
    """The array behind a view, or the array itself: it lives as long as the memory is used."""
    while isinstance(view.base, np.ndarray):
        view = view.base
    return view


def _received(comm: Any, name: str, args: tuple, kwargs: dict) -> list[NDArray]:
    """The memory that a verb would fill with data from other ranks; none or one array."""
    if name in RECEIVES:
        spec = argument(args, kwargs, 0, "buf")
    elif name == "Sendrecv":
        spec = argument(args, kwargs, 3, "recvbuf")
    elif name in ("Bcast", "Ibcast"):
        root = argument(args, kwargs, 1, "root", 0)
        spec = None if comm.rank == root else argument(args, kwargs, 0, "buf")
    elif name in COLLECTIVES and argument(args, kwargs, 0, "sendbuf") is not MPI.IN_PLACE:
        spec = argument(args, kwargs, 1, "recvbuf")
    else:
        spec = None
    target = array(spec)
    return [] if target is None else [target]
