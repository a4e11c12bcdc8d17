"""A communicator whose transfers end as late as MPI allows, so that a missing wait is seen."""

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray


class Late(MPI.Intracomm):
    """What arrives is there only after `Wait`, and what is sent must not change before it.

    MPI promises no more, but small messages mostly arrive at once, and hide a `Wait` that is
    missing and a buffer that is used again too early. Until `Wait`, buffers to receive into are
    filled with nan.
    """

    unfinished: ClassVar[list["LateRequest"]] = []
    """Requests that nobody has waited for."""

    made: ClassVar[list["LateRequest"]] = []

    def Split(self, color=0, key=0):
        part = super().Split(color, key)
        return Late(part) if part != MPI.COMM_NULL else part

    def Isend(self, buf, dest, tag=0):
        kept = np.array(buf)
        return LateRequest(super().Isend(kept, dest, tag), buf, kept, lambda: None)

    def Irecv(self, buf, source=MPI.ANY_SOURCE, tag=MPI.ANY_TAG):
        arrived = np.empty_like(buf)
        return _into(buf, arrived, super().Irecv(arrived, source, tag))

    def Iallreduce(self, sendbuf, recvbuf, op=MPI.SUM):
        arrived = np.array(recvbuf if sendbuf is MPI.IN_PLACE else sendbuf)
        return _into(recvbuf, arrived, super().Iallreduce(MPI.IN_PLACE, arrived, op))


class LateRequest:
    """A request, and its buffer, which must not change before `Wait`."""

    def __init__(self, request: Any, buffer: NDArray, kept: NDArray, finish: Callable[[], None]):
        self._request, self._buffer, self._kept, self._finish = request, buffer, kept, finish
        Late.made.append(self)
        Late.unfinished.append(self)

    def Test(self) -> bool:
        """MPI may always say that a transfer is not over yet."""
        return False

    def Wait(self) -> None:
        np.testing.assert_array_equal(self._buffer, self._kept, "a buffer changed before Wait")
        self._request.Wait()
        self._finish()
        Late.unfinished.remove(self)


def _into(buffer: NDArray, arrived: NDArray, request: Any) -> LateRequest:
    buffer[...] = np.nan

    def finish() -> None:
        buffer[...] = arrived

    return LateRequest(request, buffer, np.array(buffer), finish)
