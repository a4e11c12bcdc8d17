"""Which rank holds which part of a model's parameters, and how they come together again."""

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from nn.layers import Layer
from nn.model import Model
from nn.own_methods import own_methods, replaced_in_object
from strategies.base import Refused, Strategy

EVERYTHING = (slice(None),)


class Block(NamedTuple):
    """The `part` of an array of `shape` that lies in a flat vector at `start`."""

    start: int
    shape: tuple[int, ...]
    part: tuple[slice, ...] = EVERYTHING

    def of(self, vector: NDArray) -> NDArray:
        """Return the block of a full vector, a view."""
        stop = self.start + math.prod(self.shape)
        return vector[self.start : stop].reshape(self.shape)[self.part]

    @property
    def size(self) -> int:
        """Elements of the block."""
        cut = [len(range(*key.indices(n))) for key, n in zip(self.part, self.shape)]
        return math.prod(cut) * math.prod(self.shape[len(cut) :])

    def shifted(self, by: int) -> "Block":
        return self._replace(start=self.start + by)


Layout = list[Block]
"""The blocks of the full vector that a rank holds, in the order of its own flat vector."""

MakeLayers = Callable[[], list[Layer]]
"""Makes a rank's layers: every rank knows all layouts, but makes only its own layers."""


def take(full: NDArray, layout: Layout) -> NDArray:
    """Return a rank's own flat vector, a copy out of the full one."""
    return np.concatenate([np.empty(0, full.dtype), *(block.of(full).ravel() for block in layout)])


def unsplit(stage: Model, need_dx: bool) -> tuple[MakeLayers, Layout]:
    """Leave a stage's layers as they are: its rank holds all their parameters."""

    def layers() -> list[Layer]:
        copies = [copy.copy(layer) for layer in stage.layers]
        ours = all(hasattr(each, "joined") and not own_methods(each) for each in copies)
        if ours:  # layers of torch run faster as one
            return [copies[0].joined(copies[1:], stage.input_shape)]  # type: ignore[attr-defined]
        return copies

    return layers, [Block(0, (stage.offsets[-1],))]


def part_of(model: Model, layers: list[Layer], layout: Layout) -> Model:
    """Make a model of `layers`, with memory for its part of the parameters of `model` only."""
    return Model(
        layers,
        str(model.dtype),
        input_shape=model.input_shape,
        params=take(model.params, layout),
    )


def _refuse_own_methods(model: Model, strategy: str) -> None:
    """Raise Refused if ranks that compute layer by layer would not call what was replaced."""
    # `predict` is for the user, who calls it on a model of their own.
    if names := [name for name in own_methods(model) if name != "predict"]:
        raise Refused(
            f"the model replaces {', '.join(names)} of {_base(model)}, and {strategy} computes the "
            "layers by itself, without these: expected a strategy that calls them, such as "
            "DataParallel, or a loss given as loss=..."
        )
    for i, layer in enumerate(model.layers):
        if names := [name for part in parts_of(layer) for name in replaced_in_object(part)]:
            raise Refused(
                f"{', '.join(names)} of layer {i}, {layer}, was assigned to the object, and "
                f"{strategy} copies layers, so the copies would compute with the weights of the "
                "original: expected a class with such a method"
            )


def _base(model: Model) -> str:
    return "TorchModel" if hasattr(model, "converted") else "Model"


def parts_of(layer: Layer) -> Iterator[Layer]:
    """Yield a layer and the layers inside it."""
    yield layer
    for inner in getattr(layer, "layers", ()):
        yield from parts_of(inner)


class Sharded(Strategy):
    """A strategy whose ranks hold, and update, parts of the parameters.

    The model that is given is not trained: a rank copies its part out of it, and the model can be
    deleted. Subclasses set `layouts`, the blocks that each rank of `comm` holds. Ranks that hold
    the same block hold the same values.

    Raises:
        Refused: the model is not an nn.Model, so its layers are not known; or it replaces methods
            of nn.Model, such as `gradients`, or of a layer's object, which would be left out.
    """

    layouts: list[Layout]
    model: Any
    """This rank's part: flat `params` and `grads` in the order of its layout."""

    def __init__(self, model: Model, optimizer, comm: MPI.Intracomm):
        if not isinstance(model, Model):
            raise Refused(
                f"model is {type(model).__name__}: {type(self).__name__} expected nn.Model, "
                "since it distributes its layers"
            )
        _refuse_own_methods(model, type(self).__name__)
        super().__init__(model, optimizer, comm)

    def weights(self) -> NDArray:
        return self._whole(super().weights())

    def _whole(self, vector):
        counts = [sum(block.size for block in layout) for layout in self.layouts]
        parts = np.empty(sum(counts), vector.dtype)
        self.comm.Allgatherv(vector, [parts, counts])
        whole = np.empty(self.length, vector.dtype)
        at = 0
        for layout in self.layouts:
            for block in layout:
                target = block.of(whole)
                target[...] = parts[at : at + target.size].reshape(target.shape)
                at += target.size
        return whole

    def _own(self, vector):
        return take(vector, self.layouts[self.comm.rank])

    def _set_weights(self, params):
        self.model.params[:] = self._own(params)
