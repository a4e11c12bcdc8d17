"""How tensor parallelism rewrites the layers of a net for one rank."""

import copy
import math
from collections.abc import Callable, Sequence
from functools import partial

from mpi4py import MPI

from nn.batch import bounds
from nn.layers import (
    Conv2d,
    Divisible,
    Flatten,
    Layer,
    Linear,
    MaxPool2d,
    ReLU,
    Shape,
    Sigmoid,
    Tanh,
)
from nn.layers.residual import Residual
from nn.model import Model
from nn.own_methods import own_methods
from strategies.sharding.blocks import EVERYTHING, Block, Layout
from strategies.sharding.layout import MakeLayers, blocks_of
from strategies.sharding.split_layers import (
    Collect,
    Gather,
    Parts,
    RowLinear,
    SumGradient,
    Take,
)


def computes_its_own_way(layer: Layer) -> bool:
    """Whether a class derived from one of our layers has other methods, which a part would lose."""
    return bool(set(own_methods(layer)) - {"init"})  # parts take their values from the model


def each_feature_alone(layer: Layer) -> bool:
    """Whether a layer works on features (or channels) however they are split."""
    if "each_feature_alone" in vars(type(layer)):  # a user's layer may say so itself
        return bool(layer.each_feature_alone)  # type: ignore[attr-defined]
    if computes_its_own_way(layer):
        return False
    alone = isinstance(layer, ReLU | Sigmoid | Tanh | MaxPool2d)
    return alone or getattr(layer, "each_feature_alone", False)


def split(model: Model, comm: MPI.Intracomm, rank: int, need_dx: bool) -> tuple[MakeLayers, Layout]:
    """Rewrite a model for one rank of `comm`: return its layers, and the parameters they hold.

    Input and output are whole on every rank, and so is the gradient of the input. A layer of a
    class derived from one of ours that replaces its methods is kept as it is, whole on every rank.

    Args:
        need_dx: whether the gradient of the input is needed, as behind the first pipeline stage.
    """
    rewritten = _Rewriting(comm, rank, model.input_shape, need_dx)
    rewritten.shared = blocks_of(model)
    rewritten.run(model.layers, at=0)
    return rewritten.layers, rewritten.layout


class _Rewriting:
    """Rewrites consecutive layers, and remembers how activations are split between them."""

    def __init__(self, comm: MPI.Intracomm, rank: int, shape: Shape, need_dx: bool):
        self.comm, self.rank, self.shape, self.need_dx = comm, rank, shape, need_dx
        self.shared: dict[str, Block] = {}  # parameters with unique names that are still to be held
        self.makers: list[Callable[[], Layer]] = []
        self.layout: Layout = []
        self.parts: Parts | None = None  # None: every rank has all features

    def layers(self) -> list[Layer]:
        return [make() for make in self.makers]

    def run(self, layers: Sequence[Layer], at: int) -> None:
        """Rewrite `layers`, whose parameters begin at `at` in the flat vector."""
        last = max((i for i, layer in enumerate(layers) if layer.shapes), default=-1)
        for i, layer in enumerate(layers):
            if computes_its_own_way(layer):
                self._other(layer, at)
            elif isinstance(layer, Linear) and len(self.shape) == 1:  # torch's takes others too
                self._linear(layer, at, alone=i == last)
            elif isinstance(layer, Conv2d):
                self._convolution(layer, at)
            elif isinstance(layer, Divisible):
                self._divisible(layer, at)
            elif isinstance(layer, Residual):
                self._residual(layer, at)
            elif isinstance(layer, Flatten):
                self._flatten(layer)
            else:
                self._other(layer, at)
            self.shape = layer.row_shape(self.shape)
            self.need_dx = self.need_dx or layer.is_trained
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

    def _divisible(self, layer: Divisible, at: int) -> None:
        self._make_whole()
        self.makers.append(partial(layer.part, self.rank, self.comm))
        for shape, cut in layer.pieces(self.rank, self.comm.size):
            self.layout.append(Block(at, shape, cut))
            at += math.prod(shape)

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
        """Keep a layer as it is, on this rank's part if it allows that, else in full."""
        if not each_feature_alone(layer):
            self._make_whole()
        self.makers.append(partial(copy.copy, layer))
        if layer.shareable:
            held = (self.shared.pop(name, None) for name in layer.shareable)
            self.layout += [block for block in held if block]
        else:
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


# A Linear of torch makes parts of itself that compute by torch.
def _columns(layer: Linear, outputs: int) -> Layer:
    if hasattr(layer, "columns"):
        return layer.columns(outputs)
    return Linear(layer.inputs, outputs)


def _rows(layer: Linear, inputs: int, comm: MPI.Intracomm) -> Layer:
    if hasattr(layer, "rows"):
        return layer.rows(inputs, comm)
    return RowLinear(inputs, layer.outputs, comm)
