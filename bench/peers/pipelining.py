"""torch.distributed.pipelining as strategies."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from mpi4py import MPI
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe
from torch.nn.functional import cross_entropy

from bench.peers.base import GlooPeer
from nn import Batch
from nn.torch.dropout import draws_masks
from strategies.base import Refused
from strategies.sharding import cuts as stage_cuts
from strategies.sharding.stages import tied_over_ranks

NO_LABEL = -100
"""The label whose rows torch's cross-entropy leaves out."""


class GPipe(GlooPeer):
    """A pipeline with the schedule GPipe, on the stages that our own `Pipeline` would choose.

    Torch needs micro-batches of one size, at least as many as stages. A batch that does not divide
    is filled up with rows that have no label, and so no loss.

    Raises:
        Refused: the net has dropout, whose masks belong to rows: torch does not say which rows a
            micro-batch holds. Or two stages have the same weights, whose gradients torch would not
            add up.
    """

    schedule: Callable[..., Any] = ScheduleGPipe
    knows_norm = False
    micro_batches = 4

    def _trained(self):
        if draws_masks(self.module):
            raise Refused(f"a net with dropout: {type(self).__name__} expected one without")
        rank, ranks = self.comm.rank, self.comm.size
        bounds = stage_cuts.choose(self.model, ranks, "auto", self.comm)
        if tied := [name for name, _ in tied_over_ranks(self.model, bounds, ranks)]:
            raise Refused(
                f"{tied[0]} is in two stages, and torch would train two copies of it: "
                f"{type(self).__name__} expected a net whose stages share no weights"
            )
        self._lo, self._hi = bounds[rank], bounds[rank + 1]
        self.module = self.module[self._lo : self._hi]
        self._schedules: dict[int, Any] = {}
        self._parts = max(self.micro_batches, ranks)
        return super()._trained()

    def backward(self, batch: Batch) -> float:
        rows, labels = len(batch), batch.global_count // len(batch)  # a row of tokens has many
        if rows not in self._schedules:
            self._schedules[rows] = self._schedule(rows, labels)
        schedule = self._schedules[rows]
        losses: list[torch.Tensor] = []
        first, last = self.comm.rank == 0, self.comm.rank == self.comm.size - 1
        x, y = self._tensors(batch)
        y = y.view(rows, labels)
        if more := -rows % self._parts:
            x = torch.cat([x, x.new_zeros(more, *x.shape[1:])])
            y = torch.cat([y, y.new_full((more, labels), NO_LABEL)])
        schedule.step(
            *([x] if first else []),
            target=y if last else None,
            losses=losses if last else None,
            return_outputs=False,
        )
        return sum(loss.item() for loss in losses)

    def _schedule(self, rows: int, labels: int) -> Any:
        each = -(-rows // self._parts)
        dtype = getattr(torch, str(self.model.dtype))
        entering, leaving = (
            torch.empty(each, *self.model.row_shape(at), dtype=dtype, requires_grad=at > 0)
            for at in (self._lo, self._hi)
        )
        stage = PipelineStage(
            self.module,
            self.comm.rank,
            self.comm.size,
            torch.device("cpu"),
            input_args=entering,
            output_args=leaving,
        )

        def loss(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
            return cross_entropy(logits, wanted.flatten(), reduction="sum") / (rows * labels)

        return type(self).schedule(stage, self._parts, loss_fn=loss, scale_grads=False)

    def weights(self):
        weights = np.zeros(self.length, self.model.dtype)
        weights[self.model.offsets[self._lo] : self.model.offsets[self._hi]] = super().weights()
        self.comm.Allreduce(MPI.IN_PLACE, weights, MPI.SUM)
        return weights


class OneFOneB(GPipe):
    """A pipeline with the schedule 1F1B."""

    schedule = Schedule1F1B
