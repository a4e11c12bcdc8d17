"""ZeRO: data parallelism that shards what plain data parallelism keeps on every rank."""

import copy
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from nn.arguments import as_int
from nn.batch import Batch, bounds
from nn.inputs import as_rows
from nn.layers.dropout import rows_of
from nn.layers.ties import lend
from nn.model import Model
from strategies.accumulation import gradients_in_parts
from strategies.sharding.blocks import Block
from strategies.sharding.layout import Sharded
from strategies.sharding.spans import Span, spans_of


class ZeRO(Sharded):
    """Data parallelism that also shards optimizer state, gradients and parameters.

    Each rank owns one slice of the flat vector: only it sums that slice of the gradient, keeps its
    optimizer state and updates it (Rajbhandari et al., "ZeRO", 2020, section 5). With n parameters
    on P ranks, L of them in the largest layer, a rank holds

    ===== ============= ============= =================
    stage parameters    gradients     optimizer state
    ===== ============= ============= =================
    1     n             n             1/P of it
    2     n             n/P + L       1/P of it
    3     n/P + L       n/P + L       1/P of it
    ===== ============= ============= =================

    Stage 2 sums the gradient of each layer as soon as backward has it. Stage 3 gathers the
    parameters of a layer before its forward and its backward, into memory that the next layer
    uses again. Weights that several layers share (tied weights) are in L for each layer that has
    them: each has them gathered, and its part of their gradient is added to the sum so far.

    Args:
        stage: 1, 2 or 3.
        accumulate: compute the rows of each rank in this many parts, as in `Sequential`. Stage 1
            sums the gradient once. Stages 2 and 3 have no memory for a whole gradient, so they
            sum every layer's in each part, and stage 3 gathers the parameters in each part.

    Raises:
        TypeError, ValueError: stage or accumulate is out of range.
        Refused: the model is not an nn.Model; accumulate with sync_batch_norm.
    """

    splits_rows = True

    def __init__(
        self,
        model: Model,
        optimizer,
        comm: MPI.Intracomm,
        stage: int = 1,
        *,
        accumulate: int = 1,
    ):
        super().__init__(model, optimizer, comm)
        self._accumulate(accumulate)
        # 1: optimizer state sharded, 2: gradients too, 3: parameters too.
        stage = as_int("stage", stage, 1, 3)
        self._layers = [copy.copy(layer) for layer in model.layers]
        self._first_trained = model.first_trained
        self._input_shape, self._kinds = model.input_shape, model.kinds
        slices = [bounds(k, comm.size, self.length) for k in range(comm.size)]
        self.layouts = [[Block(lo, (hi - lo,))] for lo, hi in slices]
        self._counts = [hi - lo for lo, hi in slices]
        self._spans = [
            [(span, [span.part(lo, hi) for lo, hi in slices]) for span in spans]
            for spans in spans_of(model)
        ]
        """Of each layer, what it computes with, and how much of it each rank owns."""
        self._start, stop = slices[comm.rank]
        self._shards_gradient, self._shards_params = stage >= 2, stage >= 3
        largest = max(sum(span.size for span, _ in spans) for spans in self._spans)
        self._params = np.empty(largest if self._shards_params else self.length, model.params.dtype)
        self._grads = np.zeros(
            largest if self._shards_gradient else self.length, self._params.dtype
        )
        for layer, lo, hi in zip(self._layers, model.offsets, model.offsets[1:]):
            layer.bind(
                self._params[: hi - lo] if self._shards_params else self._params[lo:hi],
                self._grads[: hi - lo] if self._shards_gradient else self._grads[lo:hi],
            )
        if self._shards_gradient:
            self._lend_by_layer()
        else:
            lend(self._layers)
        self._gathered = -1
        """The layer whose parameters have been gathered, in stage 3; -1 for none."""
        if self._shards_params:
            own = np.array(model.params[self._start : stop])
        else:
            self._params[:] = model.params
            own = self._params[self._start : stop]
        # MPI writes a sum in place to the front of the buffer, so it needs no memory of its own.
        own_grads = np.zeros_like(own) if self._shards_gradient else self._grads[: len(own)]
        self.model = _Slice(own, own_grads)

    def _lend_by_layer(self) -> None:
        """Give layers that borrow weights memory for them behind their own parameters."""
        place = {parameter.name: parameter for parameter in self.parameters}
        for layer in self._layers:
            if layer.shareable:
                layer.share(layer.borrowed, ())  # `_scatter` adds, to the sum over all ranks
            views, at = [], layer.n_params
            for name in layer.borrowed:
                of = place[name]
                params = self._params[at if self._shards_params else of.start :][: of.size]
                grads = self._grads[at:][: of.size]
                views.append((params.reshape(of.shape), grads.reshape(of.shape)))
                at += of.size
            layer.borrow(views)

    def gradients(self, batch: Batch) -> float:
        rows = batch.shard(self.comm.rank, self.comm.size)
        return gradients_in_parts(self._gradients, rows, self.accumulate)

    def _gradients(self, rows: Batch, add: bool = False) -> float:
        """Write (or add) the gradient of some rows, as `Model.gradients` does."""
        x = as_rows(rows.x, self._input_shape, self._params.dtype, self._kinds)
        contexts = []
        with rows_of(rows):
            for i, layer in enumerate(self._layers):
                self._gather(i)
                x, ctx = layer.forward(x)
                contexts.append(ctx)
        loss, dy = self._loss(x, rows.y, rows.count(self._loss), rows.weights)
        keeps = add and not self._shards_gradient
        for i in reversed(range(self._first_trained, len(self._layers))):
            self._gather(i)
            need_dx = i > self._first_trained
            dx = self._layers[i].backward(dy, contexts.pop(), need_dx=need_dx, add=keeps)
            self._scatter(i, add)
            if dx is not None:
                dy = dx
        return loss

    def _gather(self, i: int) -> None:
        """In stage 3, gather the parameters of layer i, over those of the layer before."""
        if not self._shards_params or i == self._gathered or not self._spans[i]:
            return
        for _, counts, whole, own in self._pieces(i, self._params, self.model.params):
            self.comm.Allgatherv(own, [whole, counts])
        self._gathered = i

    def _scatter(self, i: int, add: bool) -> None:
        """In stages 2 and 3, sum the gradient of layer i, each rank the part that it owns."""
        if not self._shards_gradient:
            return
        for span, counts, whole, own in self._pieces(i, self._grads, self.model.grads):
            if add or span.adds:
                # What this rank has so far goes into the sum, and needs no memory of its own.
                at = max(self._start - span.start, 0)
                whole[at : at + len(own)] += own
            self.comm.Reduce_scatter(whole, own, counts, MPI.SUM)

    def _pieces(
        self, i: int, memory: NDArray, own: NDArray
    ) -> Iterator[tuple[Span, list[int], NDArray, NDArray]]:
        """Yield the spans of layer i, how much each rank owns, and two views.

        Args:
            memory: what the layer computes in.
            own: all that this rank owns.
        """
        at = 0
        for span, counts in self._spans[i]:
            lo = max(span.start - self._start, 0)
            yield span, counts, memory[at : at + span.size], own[lo : lo + counts[self.comm.rank]]
            at += span.size

    def reduce(self, loss: float) -> float:
        if not self._shards_gradient:
            self.comm.Reduce_scatter(MPI.IN_PLACE, self._grads, self._counts, MPI.SUM)
        total = np.array([loss], np.float64)
        self.comm.Allreduce(MPI.IN_PLACE, total, MPI.SUM)
        return float(total[0])

    def update(self) -> None:
        super().update()
        self._share()

    def _set_weights(self, params):
        super()._set_weights(params)
        self._share()

    def _share(self) -> None:
        """Fetch the parameters that other ranks have moved, or forget the gathered ones."""
        self._gathered = -1
        if not self._shards_params:
            self.comm.Allgatherv(MPI.IN_PLACE, [self._params, self._counts])


class _Slice(NamedTuple):
    """The parameters and gradients that a rank owns."""

    params: NDArray
    grads: NDArray
