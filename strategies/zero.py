"""ZeRO: data parallelism that shards what plain data parallelism keeps on every rank."""

import copy
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
from strategies.base import Refused
from strategies.sharding.blocks import Block
from strategies.sharding.layout import Sharded


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
    uses again.

    Args:
        stage: 1, 2 or 3.
        accumulate: compute the rows of each rank in this many parts, as in `Sequential`. Stage 1
            sums the gradient once. Stages 2 and 3 have no memory for a whole gradient, so they
            sum every layer's in each part, and stage 3 gathers the parameters in each part.

    Raises:
        TypeError, ValueError: stage or accumulate is out of range.
        Refused: the model is not an nn.Model; in stages 2 and 3, layers that share weights;
            accumulate with sync_batch_norm.
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
        if stage > 1 and any(layer.borrowed for layer in model.layers):
            raise Refused(
                f"ZeRO stage {stage} sums the gradient of each layer by itself, and layers of this "
                "model share weights: expected stage=1, or the layers in one module"
            )
        self._layers = [copy.copy(layer) for layer in model.layers]
        self._first_trained = model.first_trained
        self._offsets, self._input_shape = model.offsets, model.input_shape
        self._kinds = model.kinds
        slices = [bounds(k, comm.size, self.length) for k in range(comm.size)]
        self.layouts = [[Block(lo, (hi - lo,))] for lo, hi in slices]
        self._counts = [hi - lo for lo, hi in slices]
        self._layer_counts = [
            [max(0, min(hi, stop) - max(lo, start)) for lo, hi in slices]
            for start, stop in zip(model.offsets, model.offsets[1:])
        ]
        """Parameters of each layer that each rank owns: a layer may lie in several slices."""
        self._start, stop = slices[comm.rank]
        self._shards_gradient, self._shards_params = stage >= 2, stage >= 3
        largest = max(layer.n_params for layer in self._layers)
        self._params = np.empty(largest if self._shards_params else self.length, model.params.dtype)
        self._grads = np.zeros(
            largest if self._shards_gradient else self.length, self._params.dtype
        )
        for layer, lo, hi in zip(self._layers, model.offsets, model.offsets[1:]):
            layer.bind(
                self._params[: hi - lo] if self._shards_params else self._params[lo:hi],
                self._grads[: hi - lo] if self._shards_gradient else self._grads[lo:hi],
            )
        if not self._shards_gradient:
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
        if not self._shards_params or i == self._gathered or not self._layers[i].shapes:
            return
        whole = self._params[: self._layers[i].n_params]
        own = self._own_part(self.model.params, i)
        self.comm.Allgatherv(own, [whole, self._layer_counts[i]])
        self._gathered = i

    def _scatter(self, i: int, add: bool) -> None:
        """In stages 2 and 3, sum the gradient of layer i, each rank the part that it owns."""
        if self._shards_gradient and self._layers[i].shapes:
            whole = self._grads[: self._layers[i].n_params]
            own = self._own_part(self.model.grads, i)
            if add:  # what this rank has so far goes into the sum, and needs no memory of its own
                at = max(self._start - self._offsets[i], 0)
                whole[at : at + len(own)] += own
            self.comm.Reduce_scatter(whole, own, self._layer_counts[i], MPI.SUM)

    def _own_part(self, own: NDArray, i: int) -> NDArray:
        """Return the part of layer i, a view, in a vector of all that this rank owns."""
        lo = max(self._offsets[i] - self._start, 0)
        return own[lo : lo + self._layer_counts[i][self.comm.rank]]

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
