"""Data, pipeline and tensor parallelism at once."""

from collections.abc import Sequence
from functools import partial
from typing import cast

from mpi4py import MPI

from nn.arguments import as_int
from nn.batch import Batch
from nn.model import Model
from strategies.comm.raise_together import raise_together
from strategies.data_parallel import DataParallel
from strategies.pipeline import loss_of_last
from strategies.sharding.layout import Sharded, unsplit
from strategies.sharding.rewriting import split
from strategies.sharding.stages import Plan, StagedModel


class Hybrid(Sharded):
    """A grid of `data` x `stages` x `tensor` ranks, the last varying fastest.

    Tensor parallelism rewrites the layers of a stage, the pipeline passes micro-batches through
    the stages, and data parallelism sums the gradients of the copies of the pipeline. Neighbouring
    ranks form a tensor group, which communicates most.

    Args:
        data, stages, tensor: ranks along each side of the grid.
        micro_batches, schedule, cuts, chunks: as for Pipeline; micro-batches are made of the rows
            of one copy.

    Raises:
        TypeError: a side or count that is not a whole number.
        ValueError: a grid that does not multiply to the number of ranks.
        Refused, ValueError: as Pipeline.
    """

    def __init__(
        self,
        model: Model,
        optimizer,
        comm: MPI.Intracomm,
        data: int = 1,
        stages: int = 1,
        tensor: int = 1,
        micro_batches: int = 1,
        schedule: str = "1f1b",
        cuts: str | Sequence[int] = "auto",
        chunks: int | None = None,
    ):
        super().__init__(model, optimizer, comm)
        data, stages = as_int("data", data, 1), as_int("stages", stages, 1)
        tensor = as_int("tensor", tensor, 1)
        if data * stages * tensor != comm.size:
            raise ValueError(
                f"data={data} x stages={stages} x tensor={tensor} is a grid of "
                f"{data * stages * tensor} ranks: expected {comm.size}, as many as comm has"
            )
        plan = Plan(model, comm, stages, micro_batches, schedule, cuts, chunks)
        copy_, place = divmod(comm.rank, stages * tensor)
        stage, lane = divmod(place, tensor)
        self._lanes, self._stages, self._copies = self._groups = [
            cast(MPI.Intracomm, comm.Split(color, key))
            for color, key in (
                (copy_ * stages + stage, lane),
                (copy_ * tensor + lane, stage),
                (place, copy_),
            )
        ]

        def piece(lane: int):
            return partial(_split, comm=self._lanes, rank=lane) if tensor > 1 else unsplit

        one_copy = [plan.layout(model, s, piece(t)) for s in range(stages) for t in range(tensor)]
        self.layouts = one_copy * data
        self._keep_frozen(plan.frozen(model, stage))
        self.model = raise_together(
            comm, lambda: StagedModel(model, self._stages, plan, piece(lane))
        )
        self._data = DataParallel(self.model, optimizer, self._copies)

    def gradients(self, batch: Batch) -> float:
        return self._data.gradients(batch)

    def reduce(self, loss: float) -> float:
        return loss_of_last(self._data.reduce(loss), self._stages)

    def close(self) -> None:
        """Free the communicators of the grid. Collective."""
        for group in self._groups:
            if group != MPI.COMM_NULL:
                group.Free()
        self.closed = True


def _split(stage: Model, need_dx: bool, comm: MPI.Intracomm, rank: int):
    return split(stage, comm, rank, need_dx)
