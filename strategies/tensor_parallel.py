"""Tensor parallelism: every layer's neurons are split over the ranks, all of which see all rows."""

import copy
import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from mpi4py import MPI

from nn.batch import Batch, bounds
from nn.layers import Conv2d, Flatten, Layer, Linear, MaxPool2d, ReLU, Shape, Sigmoid, Tanh
from nn.layers.dropout import rows_of
from nn.layers.residual import Residual
from nn.model import Model
from strategies.comm import channels_last
from strategies.sharding.layout import (
    EVERYTHING,
    Block,
    Layout,
    MakeLayers,
    Sharded,
    part_of,
    refuse_synchronised,
)

EACH_FEATURE_ALONE = (ReLU, Sigmoid, Tanh, MaxPool2d)
"""Layers that do not mind how features or channels are split."""

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
        refuse_synchronised(model)
        layers, _ = split(model, comm, comm.rank, need_dx=False)
        self.layouts = [split(model, comm, rank, False)[1] for rank in range(comm.size)]
        self.model = part_of(model, layers(), self.layouts[comm.rank])

    def gradients(self, batch: Batch) -> float:
        with rows_of(batch):
            return self.model.gradients(batch)  # the same loss on every rank: none to reduce


def split(model: Model, comm: MPI.Intracomm, rank: int, need_dx: bool) -> tuple[MakeLayers, Layout]:
    """Rewrite a model for one rank of `comm`: its layers, and which parameters they take.

    Input and output are whole on every rank, and so is the gradient of the input.

    Args:
        need_dx: whether the gradient of the input is needed, as behind the first pipeline stage.
    """
    rewritten = _Rewriting(comm, rank, model.input_shape, need_dx)
    rewritten.run(model.layers, at=0)
    return rewritten.layers, rewritten.layout


class _Rewriting:
    """Goes through consecutive layers and remembers how the activations are split between them."""

    def __init__(self, comm: MPI.Intracomm, rank: int, shape: Shape, need_dx: bool):
        self.comm, self.rank, self.shape, self.need_dx = comm, rank, shape, need_dx
        self.makers: list[Callable[[], Layer]] = []
        self.layout: Layout = []
        self.parts: Parts | None = None  # None: every rank has all features

    def layers(self) -> list[Layer]:
        return [make() for make in self.makers]

    def run(self, layers: Sequence[Layer], at: int) -> None:
        """`at`: where their parameters begin."""
        last = max((i for i, layer in enumerate(layers) if layer.shapes), default=-1)
        for i, layer in enumerate(layers):
            if isinstance(layer, Linear) and len(self.shape) == 1:  # torch's takes others too
                self._linear(layer, at, alone=i == last)
            elif isinstance(layer, Conv2d):
                self._convolution(layer, at)
            elif isinstance(layer, Residual):
                self._residual(layer, at)
            elif isinstance(layer, Flatten):
                self._flatten(layer)
            else:
                self._other(layer, at)
            self.shape = layer.row_shape(self.shape)
            self.need_dx = self.need_dx or bool(layer.shapes)
            at += layer.n_params
        self._make_whole()

    def _linear(self, layer: Linear, at: int, alone: bool) -> None:
        if alone and self.parts is None:
            self.parts = self._cut(layer.inputs)
            self.makers.append(partial(Take, self.comm, self.rank, self.parts))
        if self.parts is None:
            self._split_outputs(layer, at, partial(_columns, layer))
        else:
            lo, hi = self.parts[self.rank]
            self.parts = None
            self.makers.append(partial(_rows, layer, hi - lo, self.comm))
            self._keep(layer, at, (slice(None), slice(lo, hi)), EVERYTHING)

    def _convolution(self, layer: Conv2d, at: int) -> None:
        def part(outputs: int) -> Conv2d:
            return Conv2d(layer.inputs, outputs, layer.size, layer.stride, layer.padding)

        self._split_outputs(layer, at, part)

    def _residual(self, layer: Residual, at: int) -> None:
        self._make_whole()
        inner = _Rewriting(self.comm, self.rank, self.shape, need_dx=True)
        inner.run(layer.layers, at)
        self.makers.append(lambda: Residual(*inner.layers()))
        self.layout += inner.layout

    def _flatten(self, layer: Flatten) -> None:
        if self.parts is not None:
            pixels = math.prod(self.shape[1:])
            self.parts = [(lo * pixels, hi * pixels) for lo, hi in self.parts]
        self.makers.append(partial(copy.copy, layer))

    def _other(self, layer: Layer, at: int) -> None:
        """A layer without weights to split: on its part if it can, else in full on every rank."""
        if not isinstance(layer, EACH_FEATURE_ALONE) and not getattr(
            layer, "each_feature_alone", False
        ):
            self._make_whole()
        self.makers.append(partial(copy.copy, layer))
        self._keep(layer, at, *[EVERYTHING] * len(layer.shapes))

    def _split_outputs(self, layer: Linear | Conv2d, at: int, part: Callable[[int], Layer]) -> None:
        if self.parts is not None:
            self.makers.append(partial(Gather, self.comm, self.rank, self.parts))
        elif self.need_dx:
            self.makers.append(partial(SumGradient, self.comm))
        self.parts = self._cut(layer.outputs)
        lo, hi = self.parts[self.rank]
        self.makers.append(partial(part, hi - lo))
        self._keep(layer, at, (slice(lo, hi),), (slice(lo, hi),))

    def _make_whole(self) -> None:
        if self.parts is not None:
            self.makers.append(partial(Collect, self.comm, self.rank, self.parts))
            self.parts = None

    def _cut(self, features: int) -> Parts:
        return [bounds(k, self.comm.size, features) for k in range(self.comm.size)]

    def _keep(self, layer: Layer, at: int, *cuts: tuple[slice, ...]) -> None:
        """Note which part of each of the layer's parameters this rank holds."""
        for cut, shape in zip(cuts, layer.shapes):
            self.layout.append(Block(at, shape, cut))
            at += math.prod(shape)


# A torch Linear knows how to make parts of itself, which compute by torch.
def _columns(layer: Linear, outputs: int) -> Layer:
    if hasattr(layer, "columns"):
        return layer.columns(outputs)
    return Linear(layer.inputs, outputs)


def _rows(layer: Linear, inputs: int, comm: MPI.Intracomm) -> Layer:
    if hasattr(layer, "rows"):
        return layer.rows(inputs, comm)
    return RowLinear(inputs, layer.outputs, comm)


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
        dy = channels_last.last(dy)
        self.comm.Allreduce(MPI.IN_PLACE, dy, MPI.SUM)
        return channels_last.first(dy)


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
        mine = channels_last.last(x)
        received = np.empty(sum(counts), x.dtype)
        self.comm.Allgatherv(mine, [received, counts])
        whole = np.empty((*mine.shape[:-1], self.parts[-1][1]), x.dtype)
        for (lo, hi), part in zip(self.parts, np.split(received, np.cumsum(counts)[:-1])):
            whole[..., lo:hi] = part.reshape(*mine.shape[:-1], hi - lo)
        return channels_last.first(whole)

    def _sum_and_take(self, x):
        counts = self._counts(x)
        x = np.moveaxis(x, 1, -1)
        sent = np.concatenate([x[..., lo:hi].ravel() for lo, hi in self.parts])
        mine = np.empty((*x.shape[:-1], self.mine.stop - self.mine.start), x.dtype)
        self.comm.Reduce_scatter(sent, mine, counts, MPI.SUM)
        return channels_last.first(mine)


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
