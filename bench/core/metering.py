"""A communicator that counts bytes and times waiting, to see where the time of a step goes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter
from typing import Any
from unittest import mock

import numpy as np
from mpi4py import MPI

from bench.core.instrumented import (
    BLOCKING,
    COLLECTIVES,
    GATHERS,
    SENDS,
    Instrumented,
    argument,
    array,
)

_REQUEST = MPI.Request


@dataclass
class Traffic:
    """What one rank has communicated.

    Attributes:
        sent: verb -> bytes given to MPI to be sent: the payload, whatever the library makes of it.
            A buffer that is reduced in place counts whole; of a buffer that is gathered in place,
            this rank's part counts.
        calls: verb -> how often it was called.
        waiting: seconds until the other ranks were there too: in barriers, before every blocking
            collective, before a message had come, and until requests were complete.
        communication: seconds in all verbs after that, including a send's wait for its receiver.
    """

    sent: Counter[str] = field(default_factory=Counter)
    calls: Counter[str] = field(default_factory=Counter)
    waiting: float = 0.0
    communication: float = 0.0

    def clear(self) -> None:
        """Set everything back to nothing."""
        self.sent.clear()
        self.calls.clear()
        self.waiting = self.communication = 0.0

    def wait(self, function: Callable, *args: Any, **kwargs: Any) -> Any:
        """Call a function, and count its time as waiting."""
        start = perf_counter()
        result = function(*args, **kwargs)
        self.waiting += perf_counter() - start
        return result


class _Metering(Instrumented):
    record: Traffic

    def _verb(self, name, real, args, kwargs):
        record = self.record
        record.calls[name] += 1
        if sent := _bytes_sent(self, name, args, kwargs):
            record.sent[name] += sent
        if name == "Barrier":
            return record.wait(real)
        if name == "Recv":
            source = argument(args, kwargs, 1, "source", MPI.ANY_SOURCE)
            record.wait(self.Probe, source, argument(args, kwargs, 2, "tag", MPI.ANY_TAG))
        elif name in BLOCKING:
            record.wait(super(Instrumented, self).Barrier)
        start = perf_counter()
        result = real(*args, **kwargs)
        record.communication += perf_counter() - start
        return _TimedRequest(result, record) if isinstance(result, _REQUEST) else result

    @contextmanager
    def timed_requests(self) -> Iterator[None]:
        """A context in which waits for lists of requests (`MPI.Request.Waitall`, ...) are timed."""
        names = ("Waitall", "Waitany", "Waitsome", "Testall", "Testany", "Testsome")
        timed = {
            name: staticmethod(partial(self.record.wait, getattr(_REQUEST, name))) for name in names
        }
        with mock.patch.object(MPI, "Request", type("Request", (_REQUEST,), timed)):
            yield


class Metered(_Metering, MPI.Intracomm):
    """`comm` with a `record` of what this rank sends over it and how long that takes.

    To tell waiting from communication it puts a barrier before every blocking collective and a
    probe before every receive. Use it to look inside a step, not to time one.
    """

    def __new__(cls, comm: MPI.Intracomm | None = None, record: Traffic | None = None):
        return super().__new__(cls, comm, record or Traffic())


class _MeteredCart(_Metering, MPI.Cartcomm):
    pass


_Metering.kinds = {MPI.Intracomm: Metered, MPI.Cartcomm: _MeteredCart}


class _TimedRequest(MPI.Request):
    """A request that records how long it was waited for."""

    record: Traffic

    def __new__(cls, request: MPI.Request, record: Traffic):
        self = super().__new__(cls, request)
        self.record = record
        return self

    def Wait(self, *args, **kwargs):
        return self.record.wait(super().Wait, *args, **kwargs)

    def Test(self, *args, **kwargs):
        return self.record.wait(super().Test, *args, **kwargs)


def _bytes_sent(comm: Any, name: str, args: tuple, kwargs: dict) -> int:
    """Payload of a verb, in bytes."""
    if name in SENDS or name == "Sendrecv_replace":
        return _size(argument(args, kwargs, 0, "buf"))
    if name in ("Bcast", "Ibcast"):
        root = argument(args, kwargs, 1, "root", 0)
        return _size(argument(args, kwargs, 0, "buf")) if comm.rank == root else 0
    if name not in COLLECTIVES and name != "Sendrecv":
        return 0
    send = argument(args, kwargs, 0, "sendbuf")
    if send is not MPI.IN_PLACE:
        return _size(send)
    received = argument(args, kwargs, 1, "recvbuf")
    if name.removeprefix("I").capitalize() in GATHERS:
        return _size(received, part=(comm.rank, comm.size))
    return _size(received)


def _size(spec: Any, part: tuple[int, int] | None = None) -> int:
    """Bytes that a buffer argument of mpi4py describes, or bytes of its part (k, n)."""
    memory = array(spec)
    if memory is None:
        return 0
    rest = list(spec[1:]) if isinstance(spec, list | tuple) else []
    types = [x for x in rest if isinstance(x, MPI.Datatype)]
    itemsize = types[0].Get_size() if types else memory.itemsize
    counts = next((x for x in rest if not isinstance(x, MPI.Datatype | str | None)), None)
    if isinstance(counts, tuple) and counts and not isinstance(counts[0], int | np.integer):
        counts = counts[0]  # (counts, displacements)
    if counts is None:
        return memory.nbytes // part[1] if part else memory.nbytes
    if isinstance(counts, int | np.integer):
        return int(counts) * itemsize
    return int(counts[part[0]] if part else sum(counts)) * itemsize
