"""The stages of a pipeline: which rank has which, and how one rank runs its own."""

from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from itertools import pairwise
from time import perf_counter

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from nn.batch import Batch
from nn.layers import Shape
from nn.layers.dropout import rows_of
from nn.model import Model
from strategies.base import Refused, refuse_sync_batch_norm
from strategies.sharding import cuts as stage_cuts
from strategies.sharding.blocks import Layout
from strategies.sharding.layout import MakeLayers, part_of
from strategies.sharding.mailbox import Mailbox
from strategies.sharding.schedules import Op, schedule

Split = Callable[[Model, bool], tuple[MakeLayers, Layout]]
"""(stage of the net, whether its dx is needed) -> this rank's part of the stage."""


def tied_over_ranks(model: Model, bounds: Sequence[int], ranks: int) -> list[tuple[str, list[int]]]:
    """Return the parameters that several stages hold, and on which ranks those stages are.

    Args:
        bounds: first layer of every stage, and the number of layers.
    """
    stages: dict[str, set[int]] = {}
    for stage, (lo, hi) in enumerate(pairwise(bounds)):
        for name in (name for layer in model.layers[lo:hi] for name in layer.shareable):
            stages.setdefault(name, set()).add(stage)
    return [
        (name, sorted({stage % ranks for stage in having}))
        for name, having in stages.items()
        if len(having) > 1
    ]


class Plan:
    """Which rank has which layers, and what it does when; the same on every rank."""

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
        refuse_sync_batch_norm(model)
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
        """Yield the number of each stage of a rank, its model, its layers and what they hold."""
        for stage in range(rank, self.stages, self.ranks):
            lo, hi = self.bounds[stage : stage + 2]
            piece = model.stage(lo, hi)
            yield stage, piece, *split(piece, lo > 0)

    def frozen(self, model: Model, rank: int) -> set[str]:
        """Return the names of what is frozen in the layers of a rank."""
        return {
            layer.name_in_model(i, name)
            for stage in range(rank, self.stages, self.ranks)
            for i in range(*self.bounds[stage : stage + 2])
            for layer in [model.layers[i]]
            for name in layer.frozen
        }

    def layout(self, model: Model, rank: int, split: Split) -> Layout:
        """Return the blocks that a rank holds of the whole model."""
        return [
            block.shifted(model.offsets[self.bounds[stage]])
            for stage, _, _, blocks in self.pieces(model, rank, split)
            for block in blocks
        ]


class StagedModel:
    """The stages of one rank of a pipeline, as a model whose `gradients` passes messages."""

    def __init__(self, model: Model, comm: MPI.Intracomm, plan: Plan, split: Split):
        self.comm, self.micro_batches = comm, plan.micro_batches
        self.loss = model.loss
        self._first_trained = model.first_trained
        # Below the first layer that is trained nobody needs a gradient.
        self._ops = [
            op
            for op in plan.schedule[comm.rank]
            if op.kind == "F" or self._first_trained < plan.bounds[op.stage + 1]
        ]
        self._last = plan.stages - 1
        self._bounds = plan.bounds
        self._shapes = [model.row_shape(bound) for bound in plan.bounds]
        self._stages = {
            stage: part_of(piece, layers(), blocks)
            for stage, piece, layers, blocks in plan.pieces(model, comm.rank, split)
        }
        self.live: dict[tuple[int, int], list] = {}
        """(stage, micro-batch) -> contexts that wait for backward."""
        self.timeline: list[tuple[Op, float, float]] = []
        """Operations of the last step, each with the `time.perf_counter` at which it had what it
        needs, and at which it had ended."""
        self.offsets = [0, *np.cumsum([len(part.params) for part in self._stages.values()])]
        params = np.concatenate([part.params for part in self._stages.values()])
        self._tied = tied_over_ranks(model, plan.bounds, plan.ranks)
        self.bind(params, np.zeros_like(params))

    def bind(self, params: NDArray, grads: NDArray) -> None:
        """Move into other memory, like `nn.Model.bind`."""
        self.params, self.grads = params, grads
        for part, lo, hi in zip(self._stages.values(), self.offsets, self.offsets[1:]):
            part.bind(params[lo:hi], grads[lo:hi])

    def gradients(self, batch: Batch) -> float:
        """Run this rank's operations in order; return the loss on the last stage, else 0.

        Sends do not wait, and the message of the next operation can arrive during this one. In
        1F1B two neighbours may send to each other, and with blocking sends both would wait.
        """
        parts = [batch.shard(i, self.micro_batches) for i in range(self.micro_batches)]
        self.live.clear()
        post = Mailbox(
            self.comm, self._last, self._shapes, [len(p) for p in parts], self.params.dtype
        )
        loss = 0.0
        self.timeline = []
        for op, upcoming in zip(self._ops, [*self._ops[1:], None]):
            post.expect(op)
            if upcoming:
                post.expect(upcoming)
            rows = parts[op.micro]
            needed = rows.x if op.kind == "F" and op.stage == 0 else post.fetch(op)
            began = perf_counter()
            if op.kind == "F":
                loss += self._forward(op, needed, rows, post)
            else:
                self._backward(op, needed, post)
            self.timeline.append((op, began, perf_counter()))
        post.close()
        for tag, (name, ranks) in enumerate(self._tied, start=2 * self._last + 2):
            if self.comm.rank in ranks:
                self._sum_tied(name, ranks, tag)
        return loss

    def _forward(self, op: Op, x: NDArray, rows: Batch, post: Mailbox) -> float:
        """Pass on the output of a stage; of the last stage return the loss."""
        _, stage, i = op
        loss = 0.0
        with rows_of(rows):
            y, self.live[stage, i] = self._stages[stage].forward(x)
        if stage < self._last:
            self._check_shape(stage, y.shape, len(rows))
            post.deliver(Op("F", stage + 1, i), y)
        else:
            loss, dy = self.loss(y, rows.y, rows.count(self.loss), rows.weights)
            post.keep(Op("B", stage, i), dy)
        if self._first_trained >= self._bounds[stage + 1]:
            del self.live[stage, i]
        return loss

    def _backward(self, op: Op, dy: NDArray, post: Mailbox) -> None:
        """Add to the gradient of a stage, and pass on the gradient of its input."""
        _, stage, i = op
        contexts = self.live.pop((stage, i))
        need_dx = self._first_trained < self._bounds[stage]
        dx = self._stages[stage].backward(dy, contexts, need_dx=need_dx, add=i > 0)
        if dx is not None:
            post.deliver(Op("B", stage - 1, i), dx)

    def _sum_tied(self, name: str, ranks: list[int], tag: int) -> None:
        """Sum the gradient of a parameter over all stages that have it, in the same order.

        The sum begins with the first one: `np.sum` begins with 0, and would lose `NO_GRADIENT`.
        """
        copies = [
            grad
            for part in self._stages.values()
            for layer in part.layers
            if name in layer.shareable
            for own, grad in zip(layer.names, layer.grads)
            if own == name
        ]
        own = reduce(np.add, copies)
        sums = {rank: own if rank == self.comm.rank else np.empty_like(own) for rank in ranks}
        others = [rank for rank in ranks if rank != self.comm.rank]
        requests = [self.comm.Irecv(sums[rank], rank, tag) for rank in others]
        requests += [self.comm.Isend(own, rank, tag) for rank in others]
        for request in requests:
            request.Wait()
        total = reduce(np.add, sums.values())
        for copy in copies:
            copy[...] = total

    def _check_shape(self, stage: int, found: Shape, rows: int) -> None:
        """Raise ValueError if the next stage expects another shape, where MPI would truncate it."""
        expected = rows, *self._shapes[stage + 1]
        if found != expected:
            lo, hi = self._bounds[stage : stage + 2]
            raise ValueError(
                f"stage {stage}, layers {lo} to {hi - 1}, made {found} of {rows} rows: expected "
                f"{expected}; a pipeline cannot be cut behind layers that make rows whose shape or "
                "number depends on the data: choose other cuts"
            )
