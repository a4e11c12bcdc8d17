"""Data parallelism: every rank holds the model, computes on its rows, and gradients are summed."""

import numpy as np
from mpi4py import MPI

from nn.arguments import as_int
from nn.batch import Batch
from strategies.accumulation import gradients_in_parts
from strategies.base import Refused, Strategy
from strategies.comm.shared_window import LINE


class DataParallel(Strategy):
    """Each rank computes its rows; one Allreduce sums the gradient, and the loss in front of it.

    Losses are divided by the global row count before they are summed, so uneven and empty shards
    are right by construction.

    Args:
        buckets: sum the gradient in this many parts of whole layers, each as soon as backward has
            finished it, so that communication overlaps the rest of backward (Li et al., "PyTorch
            Distributed", 2020, section 3.2). It pays only if the layers that finish last are
            small.
        accumulate: compute the rows of each rank in this many parts, as in `Sequential`; the sum
            over the ranks is taken once, after the last part, or during its backward.

    Raises:
        TypeError: buckets or accumulate is not a whole number.
        ValueError: buckets or accumulate below 1.
        Refused: more buckets than layers with parameters; accumulate with sync_batch_norm.
    """

    splits_rows = True

    def __init__(
        self,
        model,
        optimizer,
        comm: MPI.Intracomm,
        buckets: int = 1,
        *,
        accumulate: int = 1,
    ):
        super().__init__(model, optimizer, comm)
        self._accumulate(accumulate)
        self._starts = _bucket_starts(model, buckets)
        dtype = model.params.dtype
        # A line in front of the gradient holds the loss, so that one message carries both and the
        # gradient stays aligned.
        self._front = LINE // dtype.itemsize
        self._buffer = np.zeros(self._front + len(model.params), dtype)
        self._bind(model.params, self._buffer[self._front :])
        self._end = len(self._buffer)
        self._pending: list[MPI.Request] = []

    def gradients(self, batch: Batch) -> float:
        self._end = len(self._buffer)
        shard = batch.shard(self.comm.rank, self.comm.size)
        ready = self._ready if len(self._starts) > 1 else None
        return gradients_in_parts(self.model.gradients, shard, self.accumulate, ready=ready)

    def _ready(self, layer: int) -> None:
        """Begin to sum a bucket when `layer`, of layers from last to first, completes it."""
        for request in self._pending:
            request.Test()  # lets MPI make progress
        start = self._front + self.model.offsets[layer]
        # The bucket of the first layers waits for `reduce`: backward is over by then.
        if self.model.offsets[layer] in self._starts[1:] and start < self._end:
            self._begin(start)

    def _begin(self, start: int) -> None:
        part = self._buffer[start : self._end]
        self._pending.append(self.comm.Iallreduce(MPI.IN_PLACE, part, MPI.SUM))
        self._end = start

    def reduce(self, loss: float) -> float:
        at = self._front - 1
        self._buffer[at] = loss
        if self._pending:
            self._begin(at)
            for request in self._pending:
                request.Wait()
            self._pending = []
        else:
            self.comm.Allreduce(MPI.IN_PLACE, self._buffer[at:], MPI.SUM)
        return self._buffer[at]


def _bucket_starts(model, buckets: int) -> list[int]:
    """Return where each bucket begins in the flat gradient: at layers, as evenly as they allow."""
    buckets = as_int("buckets", buckets, 1)
    if buckets == 1:
        return [0]
    starts = sorted(
        {lo for lo, hi in zip(model.offsets, model.offsets[1:]) if hi > lo}
    )  # of layers with parameters
    if buckets > len(starts):
        raise Refused(
            f"buckets={buckets}: expected a whole number from 1 to {len(starts)}, the number of "
            "layers with parameters"
        )
    # Greedy from the back, leaving at least one layer for each bucket still to come.
    target = model.offsets[-1] / buckets
    chosen: list[int] = []
    end = model.offsets[-1]
    for at in reversed(range(1, len(starts))):
        left = buckets - 1 - len(chosen)
        if left and (end - starts[at] >= target or at == left):
            chosen.append(starts[at])
            end = starts[at]
    return [0, *reversed(chosen)]
