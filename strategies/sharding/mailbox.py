"""The messages of one step of a pipeline, each named by the operation that needs it."""

import numpy as np
from mpi4py import MPI
from numpy.typing import DTypeLike, NDArray

from nn.layers import Shape
from strategies.comm.channels_last import from_channels_last, to_channels_last
from strategies.sharding.schedules import Op


class Mailbox:
    """Sends and receives the messages of one step, each for the operation that needs it.

    Messages between two stages come in the order of the micro-batches, so the tag only tells the
    stage and the direction.

    Args:
        last: number of the last stage.
        shapes: of a row at the beginning of each stage, and behind the last.
        rows: of each micro-batch.
    """

    def __init__(
        self,
        comm: MPI.Intracomm,
        last: int,
        shapes: list[Shape],
        rows: list[int],
        dtype: DTypeLike,
    ):
        self.comm, self.last, self.shapes, self.rows, self.dtype = comm, last, shapes, rows, dtype
        self.here: dict[Op, NDArray] = {}
        self.coming: dict[Op, tuple[MPI.Request, NDArray]] = {}
        self.leaving: list[MPI.Request] = []

    def expect(self, op: Op) -> None:
        """Post the receive for what `op` needs, unless it is made on this rank."""
        forward = op.kind == "F"
        source = op.stage - 1 if forward else op.stage + 1
        made_here = not 0 <= source <= self.last or source % self.comm.size == self.comm.rank
        if made_here or op in self.coming:
            return
        channels, *pixels = self.shapes[op.stage if forward else op.stage + 1]
        buffer = np.empty((self.rows[op.micro], *pixels, channels), self.dtype)
        request = self.comm.Irecv(buffer, source % self.comm.size, _tag(op))
        self.coming[op] = request, buffer

    def fetch(self, op: Op) -> NDArray:
        """Wait for the array that `op` needs, and return it."""
        if op in self.here:
            return self.here.pop(op)
        request, buffer = self.coming.pop(op)
        request.Wait()
        return from_channels_last(buffer)

    def keep(self, op: Op, array: NDArray) -> None:
        """Put an array aside for an operation of this rank."""
        self.here[op] = array

    def deliver(self, op: Op, array: NDArray) -> None:
        """Send an array to the rank of `op`; keep it if that is this rank."""
        rank = op.stage % self.comm.size
        if rank == self.comm.rank:
            self.keep(op, array)
            return
        # A request keeps its buffer alive: forget those that are done.
        self.leaving = [request for request in self.leaving if not request.Test()]
        self.leaving.append(self.comm.Isend(to_channels_last(array), rank, _tag(op)))

    def close(self) -> None:
        """Wait until every message has left."""
        for request in self.leaving:
            request.Wait()


def _tag(op: Op) -> int:
    return 2 * op.stage + (op.kind == "B")
