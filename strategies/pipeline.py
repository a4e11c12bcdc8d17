"""Pipeline parallelism: consecutive layers per rank, and micro-batches that pass through them."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from mpi4py import MPI
from numpy.typing import DTypeLike, NDArray

from nn.batch import Batch
from nn.layers import Shape
from nn.layers.dropout import rows_of
from nn.loss import cross_entropy
from nn.model import Model
from strategies.base import Refused
from strategies.comm import channels_last
from strategies.comm.raise_together import raise_together
from strategies.sharding import cuts as stage_cuts
from strategies.sharding.layout import (
    Layout,
    MakeLayers,
    Sharded,
    part_of,
    refuse_synchronised,
    unsplit,
)
from strategies.sharding.schedules import Op, schedule

Split = Callable[[Model, bool], tuple[MakeLayers, Layout]]
"""From a stage of the net, and whether its dx is needed, to what a rank computes of it."""


class Pipeline(Sharded):
    """Each rank holds consecutive layers; the batch passes in micro-batches.

    Gradients of the micro-batches are summed in their order in every schedule, so the schedules
    agree to the bit, with each other and with adding up the micro-batches in one process.

    Every batch needs a row for each micro-batch. The last of an epoch may be left with fewer:
    choose a batch size, or `micro_batches`, such that rows % batch size is 0 or at least
    `micro_batches`.

    Args:
        micro_batches: nearly equal parts of the batch, each passed on as soon as it is done.
        schedule: "naive", "gpipe", "1f1b" or "interleaved"; see `strategies.sharding.schedules`.
        cuts: "auto" balances the stages by the cost of each layer as measured on rank 0; or the
            first layer of every stage but the first.
        chunks: stages a rank in the interleaved schedule, by default 2; stage s is then on rank
            s % size.

    Raises:
        Refused: more stages than layers; a cut behind a layer that makes several rows of each; in
            `step`, fewer rows than micro-batches.
        ValueError: cuts, schedule or counts that are none. In `step`, on its rank alone, a stage
            that makes something else of its rows than the model says. (The other ranks wait:
            start with `-m mpi4py`, which ends them.)
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
        self._micro_batches = micro_batches
        self.layouts = [plan.layout(model, stage, unsplit) for stage in range(comm.size)]
        # Activations and gradients are told apart by tags: no others may pass between them.
        self._messages = comm.Dup()
        self.model = raise_together(comm, lambda: Staged(model, self._messages, plan, unsplit))

    def gradients(self, batch: Batch) -> float:
        check_rows(len(batch), self._micro_batches)
        return self.model.gradients(batch)

    def reduce(self, loss: float) -> float:
        return loss_of_last(loss, self.comm)

    def close(self) -> None:
        """Free the communicator of the messages. Collective."""
        if self._messages != MPI.COMM_NULL:
            self._messages.Free()
            self.closed = True


def check_rows(rows: int, micro_batches: int) -> None:
    if micro_batches > rows:
        raise Refused(
            f"micro_batches={micro_batches} and {rows} rows to make them of: expected at most one "
            "micro-batch a row"
        )


def loss_of_last(loss: float, comm: MPI.Intracomm) -> float:
    """The loss, which the last stage alone has seen, on every rank."""
    buffer = np.array([loss], np.float64)
    comm.Bcast(buffer, comm.size - 1)
    return float(buffer[0])


class Plan:
    """Who has which layers and does what when, the same on every rank."""

    def __init__(
        self,
        model: Model,
        comm: MPI.Intracomm,
        ranks: int,
        micro_batches: int,
        name: str,
        cuts: str | Sequence[int],
        chunks: int | None,
    ):
        refuse_synchronised(model)
        if chunks is None:
            chunks = 2 if name == "interleaved" else 1
        self.schedule = schedule(name, ranks, micro_batches, chunks)
        self.ranks, self.micro_batches, self.stages = ranks, micro_batches, ranks * chunks
        self.bounds = stage_cuts.choose(model, self.stages, cuts, comm)
        for i, layer in enumerate(model.layers[: self.bounds[-2]]):
            if layer.rows_each > 1:
                raise Refused(
                    f"layer {i} makes {layer.rows_each} rows of each: a pipeline cannot be cut "
                    f"behind it, as it is at layer {self.bounds[-2]}; choose other cuts"
                )

    def pieces(
        self, model: Model, rank: int, split: Split
    ) -> Iterator[tuple[int, Model, MakeLayers, Layout]]:
        """For each stage of a rank: its number, its model, its layers and what they hold of it."""
        for stage in range(rank, self.stages, self.ranks):
            lo, hi = self.bounds[stage : stage + 2]
            piece = model.stage(lo, hi)
            yield stage, piece, *split(piece, lo > 0)

    def layout(self, model: Model, rank: int, split: Split) -> Layout:
        """What a rank holds of the whole model."""
        return [
            block.shifted(model.offsets[self.bounds[stage]])
            for stage, _, _, blocks in self.pieces(model, rank, split)
            for block in blocks
        ]


class Staged:
    """The stages of one rank of a pipeline, as a model whose `gradients` passes messages."""

    def __init__(self, model: Model, comm: MPI.Intracomm, plan: Plan, split: Split):
        self.comm, self.micro_batches = comm, plan.micro_batches
        self._ops = plan.schedule[comm.rank]
        self._last = plan.stages - 1
        self._bounds = plan.bounds
        self._shapes = [model.row_shape(bound) for bound in plan.bounds]
        self._stages = {
            stage: part_of(piece, layers(), blocks)
            for stage, piece, layers, blocks in plan.pieces(model, comm.rank, split)
        }
        self.live: dict[tuple[int, int], list] = {}
        """(stage, micro-batch): contexts between its forward and its backward."""
        self.offsets = [0, *np.cumsum([len(part.params) for part in self._stages.values()])]
        params = np.concatenate([part.params for part in self._stages.values()])
        self.bind(params, np.zeros_like(params))

    def bind(self, params: NDArray, grads: NDArray) -> None:
        """Move into other memory, like `nn.Model.bind`."""
        self.params, self.grads = params, grads
        for part, lo, hi in zip(self._stages.values(), self.offsets, self.offsets[1:]):
            part.bind(params[lo:hi], grads[lo:hi])

    def gradients(self, batch: Batch) -> float:
        """Run this rank's operations in order. Returns the loss on the last stage, else 0.

        Sends do not wait, and the message of the next operation can come while this one
        computes: with blocking sends two neighbours that send to each other would both wait, as
        1F1B lets them.
        """
        parts = [batch.shard(i, self.micro_batches) for i in range(self.micro_batches)]
        self.live.clear()
        post = _Post(
            self.comm, self._last, self._shapes, [len(p) for p in parts], self.params.dtype
        )
        loss = 0.0
        for op, upcoming in zip(self._ops, [*self._ops[1:], None]):
            post.expect(op)
            if upcoming:
                post.expect(upcoming)
            _, stage, i = op
            part = self._stages[stage]
            if op.kind == "F":
                x = post.fetch(op) if stage > 0 else parts[i].x
                with rows_of(parts[i]):
                    y, self.live[stage, i] = part.forward(x)
                if stage < self._last:
                    self._check_shape(stage, y.shape, len(parts[i]))
                    post.deliver(Op("F", stage + 1, i), y)
                else:
                    share, dy = cross_entropy(y, parts[i].y, batch.global_count)
                    loss += share
                    post.keep(Op("B", stage, i), dy)
            else:
                contexts = self.live.pop((stage, i))
                dx = part.backward(post.fetch(op), contexts, need_dx=stage > 0, add=i > 0)
                if dx is not None:
                    post.deliver(Op("B", stage - 1, i), dx)
        post.close()
        return loss

    def _check_shape(self, stage: int, found: Shape, rows: int) -> None:
        """What the next stage has made room for. (MPI would say that a message was truncated.)"""
        expected = rows, *self._shapes[stage + 1]
        if found != expected:
            lo, hi = self._bounds[stage : stage + 2]
            raise ValueError(
                f"stage {stage}, layers {lo} to {hi - 1}, made {found} of {rows} rows: expected "
                f"{expected}; a pipeline cannot be cut behind layers that make rows whose shape or "
                "number depends on the data: choose other cuts"
            )


class _Post:
    """Messages of one step, each named by the operation that needs it.

    Between two stages messages come in the order of the micro-batches, so the number of the
    stage and the direction suffice as tag.
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
        """What `op` needs."""
        if op in self.here:
            return self.here.pop(op)
        request, buffer = self.coming.pop(op)
        request.Wait()
        return channels_last.first(buffer)

    def keep(self, op: Op, array: NDArray) -> None:
        """Put aside for an operation of this rank."""
        self.here[op] = array

    def deliver(self, op: Op, array: NDArray) -> None:
        """Send to the rank of `op`, or keep."""
        rank = op.stage % self.comm.size
        if rank == self.comm.rank:
            self.keep(op, array)
            return
        # A request holds its buffer; those that are done give it up.
        self.leaving = [request for request in self.leaving if not request.Test()]
        self.leaving.append(self.comm.Isend(channels_last.last(array), rank, _tag(op)))

    def close(self) -> None:
        """Wait until every message has left."""
        for request in self.leaving:
            request.Wait()


def _tag(op: Op) -> int:
    return 2 * op.stage + (op.kind == "B")
