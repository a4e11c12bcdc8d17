"""Pipeline parallelism: consecutive layers per rank, and micro-batches that pass through them."""

from collections.abc import Sequence

import numpy as np
from mpi4py import MPI

from nn.batch import Batch
from nn.model import Model
from strategies.comm.raise_together import raise_together
from strategies.sharding.layout import Sharded, unsplit
from strategies.sharding.stages import Plan, StagedModel


class Pipeline(Sharded):
    """Each rank holds consecutive layers; the batch passes through them in micro-batches.

    Gradients of the micro-batches are summed in their order in every schedule, so the schedules
    agree to the bit, with each other and with adding up the micro-batches in one process.

    If a batch has fewer rows than there are micro-batches, as the last one of an epoch may, the
    last micro-batches are empty: their messages have no rows, and they add nothing.

    Args:
        micro_batches: nearly equal parts of the batch, each passed on as soon as it is done.
        schedule: "naive", "gpipe", "1f1b" or "interleaved"; see `strategies.sharding.schedules`.
        cuts: "auto" balances the stages by the cost of each layer as measured on rank 0; or the
            first layer of every stage but the first.
        chunks: stages on each rank in the interleaved schedule, by default 2; stage s is on rank
            s % size.

    Raises:
        Refused: there are more stages than layers, or a cut behind a layer that makes several
            rows of each.
        ValueError: cuts, schedule or a count is invalid. In `step`, only on its rank: a stage makes
            other shapes of its rows than the model says. (The other ranks then wait: start with
            `-m mpi4py`, which ends them.)
    """

    def __init__(
        self,
        model: Model,
        optimizer,
        comm: MPI.Intracomm,
        micro_batches: int = 4,
        schedule: str = "1f1b",
        cuts: str | Sequence[int] = "auto",
        chunks: int | None = None,
    ):
        super().__init__(model, optimizer, comm)
        plan = Plan(model, comm, comm.size, micro_batches, schedule, cuts, chunks)
        self.layouts = [plan.layout(model, stage, unsplit) for stage in range(comm.size)]
        self._keep_frozen(plan.frozen(model, comm.rank))
        # Tags tell activations and gradients apart, so no other messages may use this communicator.
        self._messages = comm.Dup()
        self.model = raise_together(comm, lambda: StagedModel(model, self._messages, plan, unsplit))

    def gradients(self, batch: Batch) -> float:
        return self.model.gradients(batch)

    def reduce(self, loss: float) -> float:
        return loss_of_last(loss, self.comm)

    def close(self) -> None:
        """Free the communicator of the messages. Collective."""
        if self._messages != MPI.COMM_NULL:
            self._messages.Free()
            self.closed = True


def loss_of_last(loss: float, comm: MPI.Intracomm) -> float:
    """Return the loss, which only the last stage knows, on every rank. Collective."""
    buffer = np.array([loss], np.float64)
    comm.Bcast(buffer, comm.size - 1)
    return float(buffer[0])
