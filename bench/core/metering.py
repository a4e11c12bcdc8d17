"""Communicators for measuring: one that falls silent, and one that keeps count.

A strategy is built on them as on any other communicator, and need not know. What is derived from
one (Split, Dup, Create_cart, ...) is of its kind again and shares its record.
"""

from __future__ import annotations

import mmap
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter
from typing import Any, ClassVar
from unittest import mock

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

_SENDS = ("Send", "Bsend", "Rsend", "Ssend", "Isend", "Ibsend", "Irsend", "Issend")
_RECEIVES = ("Recv", "Irecv")
_EXCHANGES = ("Sendrecv", "Sendrecv_replace")
_GATHERS = ("Gather", "Gatherv", "Allgather", "Allgatherv")
_REDUCTIONS = ("Reduce", "Allreduce", "Reduce_scatter", "Reduce_scatter_block", "Scan", "Exscan")
_BLOCKING = ("Bcast", *_REDUCTIONS, *_GATHERS, "Scatter", "Scatterv", "Alltoall", "Alltoallv")
_COLLECTIVES = (*_BLOCKING, *(f"I{name.lower()}" for name in _BLOCKING))

VERBS = ("Barrier", "Ibarrier", *_SENDS, *_RECEIVES, *_EXCHANGES, *_COLLECTIVES)
"""What is instrumented: communication of buffers, but not of Python objects (in lower case)."""

_DERIVING = (
    *("Clone", "Create", "Create_cart", "Create_group"),
    *("Dup", "Split", "Split_type", "Sub"),
)
_REQUEST = MPI.Request

PAGE = mmap.PAGESIZE
"""Bytes."""


class Instrumented:
    """Calls `_verb` in place of every verb. Mixed in before a class of mpi4py's communicators.

    What is derived is of `kinds[Intracomm]` or `kinds[Cartcomm]`, with the same `record`.
    """

    record: Any
    kinds: ClassVar[dict[type, type]]

    def __new__(cls, comm=None, record=None):
        self = super().__new__(cls, comm)
        self.record = record
        return self

    def _verb(self, name: str, real: Callable, args: tuple, kwargs: dict) -> Any:
        return real(*args, **kwargs)

    def _derived(self, real: Callable, args: tuple, kwargs: dict) -> Any:
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


@dataclass
class _Hush:
    """Whether communicators of one family are silent, and the arrays that they know."""

    silent: bool = False
    known: dict[tuple[int, int], weakref.ref[NDArray]] = field(default_factory=dict)
    """Address and bytes -> the array that has them. Another may have the same ones later."""


class _Silencing(Instrumented):
    record: _Hush

    @contextmanager
    def silence(self) -> Iterator[None]:
        """Within it nothing is communicated, and no rank waits for another."""
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
        for array in _received(self, name, args, kwargs):
            place, owner = (array.ctypes.data, array.nbytes), _owner(array)
            if place not in known or known[place]() is not owner:
                known[place] = weakref.ref(owner)
                array.fill(0)
        return _REQUEST() if name.startswith("I") else None


class Silent(_Silencing, MPI.Intracomm):
    """`comm` with a switch: within `silence()` its verbs do nothing and return at once.

    What would have been received is left as it is, or set to 0 where the array is met for the
    first time: it may hold anything, and arithmetic on denormal numbers is slow.
    """

    def __new__(cls, comm: MPI.Intracomm | None = None, record: _Hush | None = None):
        return super().__new__(cls, comm, record or _Hush())

    @contextmanager
    def private_memory(self) -> Iterator[None]:
        """Within it, a window that is shared among these ranks gives each of them its own memory.

        Memory that others write to is communication too: without it no rank has to fetch any. All
        begin with what rank 0 has written to its own by the end of the block. Collective.
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


@dataclass
class Record:
    """What one rank has communicated.

    Attributes:
        sent: verb -> bytes given to MPI to be sent: the payload, whatever the library makes of it.
            Of a buffer that is reduced in place all bytes count, of one that is gathered in place
            this rank's part.
        calls: verb -> how often it was called.
        waiting: seconds until the other ranks were there too: in barriers, before every blocking
            collective, before a message had come, and until requests were complete.
        communication: seconds in all verbs after that. A send that waits for its receiver is here.
    """

    sent: Counter[str] = field(default_factory=Counter)
    calls: Counter[str] = field(default_factory=Counter)
    waiting: float = 0.0
    communication: float = 0.0

    def clear(self) -> None:
        """Begin again at nothing."""
        self.sent.clear()
        self.calls.clear()
        self.waiting = self.communication = 0.0

    def wait(self, function: Callable, *args: Any, **kwargs: Any) -> Any:
        """Call it, and count its time as waiting."""
        start = perf_counter()
        result = function(*args, **kwargs)
        self.waiting += perf_counter() - start
        return result


class _Metering(Instrumented):
    record: Record

    def _verb(self, name, real, args, kwargs):
        record = self.record
        record.calls[name] += 1
        if sent := _bytes_sent(self, name, args, kwargs):
            record.sent[name] += sent
        if name == "Barrier":
            return record.wait(real)
        if name == "Recv":
            source = _argument(args, kwargs, 1, "source", MPI.ANY_SOURCE)
            record.wait(self.Probe, source, _argument(args, kwargs, 2, "tag", MPI.ANY_TAG))
        elif name in _BLOCKING:
            record.wait(super(Instrumented, self).Barrier)
        start = perf_counter()
        result = real(*args, **kwargs)
        record.communication += perf_counter() - start
        return _TimedRequest(result, record) if isinstance(result, _REQUEST) else result

    @contextmanager
    def timed_requests(self) -> Iterator[None]:
        """Within it, waiting for lists of requests (MPI.Request.Waitall and so on) is timed too."""
        names = ("Waitall", "Waitany", "Waitsome", "Testall", "Testany", "Testsome")
        timed = {
            name: staticmethod(partial(self.record.wait, getattr(_REQUEST, name))) for name in names
        }
        with mock.patch.object(MPI, "Request", type("Request", (_REQUEST,), timed)):
            yield


class Metered(_Metering, MPI.Intracomm):
    """`comm` with a `record` of what this rank sends over it and how long that takes.

    To tell waiting from communication it puts a barrier before every blocking collective and a
    probe before every receive. It is for a look inside, not for timing a step.
    """

    def __new__(cls, comm: MPI.Intracomm | None = None, record: Record | None = None):
        return super().__new__(cls, comm, record or Record())


class _MeteredCart(_Metering, MPI.Cartcomm):
    pass


_Metering.kinds = {MPI.Intracomm: Metered, MPI.Cartcomm: _MeteredCart}


class _TimedRequest(MPI.Request):
    """A request that records how long it was waited for."""

    record: Record

    def __new__(cls, request: MPI.Request, record: Record):
        self = super().__new__(cls, request)
        self.record = record
        return self

    def Wait(self, *args, **kwargs):
        return self.record.wait(super().Wait, *args, **kwargs)

    def Test(self, *args, **kwargs):
        return self.record.wait(super().Test, *args, **kwargs)


def _argument(args: tuple, kwargs: dict, position: int, name: str, default: Any = None) -> Any:
    return args[position] if len(args) > position else kwargs.get(name, default)


def _array(spec: Any) -> NDArray | None:
    """The memory of a buffer argument of mpi4py's, [buffer, counts, ..., datatype] or bare."""
    if spec is None or spec is MPI.IN_PLACE:
        return None
    return np.asarray(spec[0] if isinstance(spec, list | tuple) else spec)


def _owner(array: NDArray) -> NDArray:
    """The array of which this one is a view, or itself: it lives as long as the memory is used."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def _received(comm: Any, name: str, args: tuple, kwargs: dict) -> list[NDArray]:
    """The memory that a verb would write to with what other ranks have sent."""
    if name in _RECEIVES:
        spec = _argument(args, kwargs, 0, "buf")
    elif name == "Sendrecv":
        spec = _argument(args, kwargs, 3, "recvbuf")
    elif name in ("Bcast", "Ibcast"):
        root = _argument(args, kwargs, 1, "root", 0)
        spec = None if comm.rank == root else _argument(args, kwargs, 0, "buf")
    elif name in _COLLECTIVES and _argument(args, kwargs, 0, "sendbuf") is not MPI.IN_PLACE:
        spec = _argument(args, kwargs, 1, "recvbuf")
    else:
        spec = None
    array = _array(spec)
    return [] if array is None else [array]


def _bytes_sent(comm: Any, name: str, args: tuple, kwargs: dict) -> int:
    """Payload of a verb, in bytes."""
    if name in _SENDS or name == "Sendrecv_replace":
        return _size(_argument(args, kwargs, 0, "buf"))
    if name in ("Bcast", "Ibcast"):
        root = _argument(args, kwargs, 1, "root", 0)
        return _size(_argument(args, kwargs, 0, "buf")) if comm.rank == root else 0
    if name not in _COLLECTIVES and name != "Sendrecv":
        return 0
    send = _argument(args, kwargs, 0, "sendbuf")
    if send is not MPI.IN_PLACE:
        return _size(send)
    received = _argument(args, kwargs, 1, "recvbuf")
    if name.removeprefix("I").capitalize() in _GATHERS:
        return _size(received, part=(comm.rank, comm.size))
    return _size(received)


def _size(spec: Any, part: tuple[int, int] | None = None) -> int:
    """Bytes that a buffer argument of mpi4py's describes, or of part (k, n) of it."""
    array = _array(spec)
    if array is None:
        return 0
    rest = list(spec[1:]) if isinstance(spec, list | tuple) else []
    types = [x for x in rest if isinstance(x, MPI.Datatype)]
    itemsize = types[0].Get_size() if types else array.itemsize
    counts = next((x for x in rest if not isinstance(x, MPI.Datatype | str | None)), None)
    if isinstance(counts, tuple) and counts and not isinstance(counts[0], int | np.integer):
        counts = counts[0]  # (counts, displacements)
    if counts is None:
        return array.nbytes // part[1] if part else array.nbytes
    if isinstance(counts, int | np.integer):
        return int(counts) * itemsize
    return int(counts[part[0]] if part else sum(counts)) * itemsize
