"""Tensor parallelism: every layer's neurons are split over the ranks, all of which see all rows."""

import copy
import math

import numpy as np
from mpi4py import MPI

from nn.batch import Batch, bounds
from nn.layers import Conv2d, Flatten, Layer, Linear, MaxPool2d, ReLU, Sigmoid, Tanh
from nn.model import Model
from strategies import features
from strategies.layout import Block, Layout, Sharded, part_of

ELEMENTWISE = (ReLU, Sigmoid, Tanh, MaxPool2d)
"""Layers that treat each feature or channel on its own, so that they do not mind a split."""

Parts = list[tuple[int, int]]
"""Half-open range of the features (or channels) that each rank holds."""


class TensorParallel(Sharded):
    """Neuron groups over ranks: the model is rewritten so that each rank computes its part.

    Linear layers come in pairs (Shoeybi et al., "Megatron-LM", 2019, section 3): the first is
    split by outputs (columns of W^T), activations stay split, the second is split by inputs (rows)
    and its partial products are summed. That is one Allreduce of activations a pair forward, and
    one backward. A last Linear without a partner is split by inputs. Convolutions are split by
    output channel, their input is gathered. Layers of other kinds run on every rank in full.

    More ranks than neurons leave some with empty parts, which is allowed.
    """

    def __init__(self, model: Model, optimizer, comm: MPI.Intracomm):
        super().__init__(model, optimizer, comm)
        layers, _ = split(model, comm, comm.rank, need_dx=False)
        self.layouts = [split(model, comm, rank, False)[1] for rank in range(comm.size)]
        self.model = part_of(model, layers, self.layouts[comm.rank])

    def gradients(self, batch: Batch) -> float:
        return self.model.gradients(batch)  # the same loss on every rank: there is none to reduce


def split(
    model: Model, comm: MPI.Intracomm, rank: int, need_dx: bool
) -> tuple[list[Layer], Layout]:
    """Rewrite a model for one rank of `comm`: its layers, and which parameters they take.

    Input and output are whole on every rank, and so is the gradient of the input.

    Args:
        need_dx: whether the gradient of the input is needed, as behind the first pipeline stage.
    """
    layers: list[Layer] = []
    layout: Layout = []
    parts: Parts | None = None  # how the activations are split at this point; None: they are whole
    shape = model.input_shape
    last = max((i for i, layer in enumerate(model.layers) if layer.shapes), default=-1)

    def cut(total: int) -> tuple[Parts, slice]:
        parts = [bounds(k, comm.size, total) for k in range(comm.size)]
        return parts, slice(*parts[rank])

    def keep(layer: Layer, at: int, *keys: tuple[slice, ...]) -> None:
        for key, shape in zip(keys, layer.shapes):
            layout.append(Block(at, shape, key))
            at += math.prod(shape)

    for i, layer in enumerate(model.layers):
        at = model.offsets[i]
        if isinstance(layer, Linear):
            if parts is None and i == last:
                parts, _ = cut(layer.inputs)
                layers.append(Take(comm, rank, parts))
            if parts is None:
                if need_dx:
                    layers.append(SumGradient(comm))
                parts, mine = cut(layer.outputs)
                layers.append(Linear(layer.inputs, mine.stop - mine.start))
                keep(layer, at, (mine,), (mine,))
            else:
                mine = slice(*parts[rank])
                parts = None
                layers.append(RowLinear(mine.stop - mine.start, layer.outputs, comm))
                keep(layer, at, (slice(None), mine), (slice(None),))
        elif isinstance(layer, Conv2d):
            if parts is not None:
                layers.append(Gather(comm, rank, parts))
            elif need_dx:
                layers.append(SumGradient(comm))
            parts, mine = cut(layer.outputs)
            layers.append(
                Conv2d(
                    layer.inputs, mine.stop - mine.start, layer.size, layer.stride, layer.padding
                )
            )
            keep(layer, at, (mine,), (mine,))
        else:
            if parts is not None and isinstance(layer, Flatten):
                pixels = math.prod(shape[1:])
                parts = [(lo * pixels, hi * pixels) for lo, hi in parts]
            elif parts is not None and not isinstance(layer, ELEMENTWISE):
                layers.append(Collect(comm, rank, parts))
                parts = None
            layers.append(copy.copy(layer))
            keep(layer, at, *[(slice(None),)] * len(layer.shapes))
        shape = layer.row_shape(shape)
        need_dx = need_dx or bool(layer.shapes)
    if parts is not None:
        layers.append(Collect(comm, rank, parts))
    return layers, layout


class RowLinear(Linear):
    """A Linear of which each rank holds the weights of some inputs, and all hold the whole bias.

    The bias is added once, after the sum. Its gradient needs no sum: every rank sees the whole dy.
    """

    def __init__(self, inputs: int, outputs: int, comm: MPI.Intracomm):
        super().__init__(inputs, outputs)
        self.comm = comm

    def forward(self, x):
        weight, bias = self.params
        y = x @ weight.T
        self.comm.Allreduce(MPI.IN_PLACE, y, MPI.SUM)
        y += bias
        return y, x


class SumGradient(Layer):
    """In front of a layer split by outputs: each rank has that layer's dx of its outputs alone."""

    def __init__(self, comm: MPI.Intracomm):
        self.comm = comm

    def forward(self, x):
        return x, None

    def backward(self, dy, ctx, need_dx=True, add=False):
        if not need_dx:
            return None
        dy = features.last(dy)
        self.comm.Allreduce(MPI.IN_PLACE, dy, MPI.SUM)
        return features.first(dy)


class _Regroup(Layer):
    """Between activations that are whole and ones of which each rank holds its part."""

    def __init__(self, comm: MPI.Intracomm, rank: int, parts: Parts):
        self.comm, self.parts, self.mine = comm, parts, slice(*parts[rank])

    def _take(self, x):
        return x[:, self.mine]

    def _counts(self, x) -> list[int]:
        """Elements of each rank's part, x being whole or one of the parts."""
        per_feature = len(x) * math.prod(x.shape[2:])
        return [per_feature * (hi - lo) for lo, hi in self.parts]

    def _gather(self, x):
        counts = self._counts(x)
        mine = features.last(x)
        received = np.empty(sum(counts), x.dtype)
        self.comm.Allgatherv(mine, [received, counts])
        whole = np.empty((*mine.shape[:-1], self.parts[-1][1]), x.dtype)
        for (lo, hi), part in zip(self.parts, np.split(received, np.cumsum(counts)[:-1])):
            whole[..., lo:hi] = part.reshape(*mine.shape[:-1], hi - lo)
        return features.first(whole)

    def _sum_and_take(self, x):
        counts = self._counts(x)
        x = np.moveaxis(x, 1, -1)
        sent = np.concatenate([x[..., lo:hi].ravel() for lo, hi in self.parts])
        mine = np.empty((*x.shape[:-1], self.mine.stop - self.mine.start), x.dtype)
        self.comm.Reduce_scatter(sent, mine, counts, MPI.SUM)
        return features.first(mine)


class Gather(_Regroup):
    """Parts to whole, in front of a layer split by outputs, whose dx must be summed."""

    def row_shape(self, shape):
        return (self.parts[-1][1], *shape[1:])

    def forward(self, x):
        return self._gather(x), None

    def backward(self, dy, ctx, need_dx=True, add=False):
        return self._sum_and_take(dy)


class Collect(Gather):
    """Parts to whole, in front of what every rank computes alike: dy is whole on each."""

    def backward(self, dy, ctx, need_dx=True, add=False):
        return self._take(dy)


class Take(_Regroup):
    """Whole to parts."""

    def row_shape(self, shape):
        return (self.mine.stop - self.mine.start, *shape[1:])

    def forward(self, x):
        return self._take(x), None

    def backward(self, dy, ctx, need_dx=True, add=False):
        return self._gather(dy) if need_dx else None
