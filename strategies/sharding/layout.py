"""How a model is divided over ranks that each hold a part, and how the parts come together."""

import copy
from collections.abc import Callable, Collection, Iterator
from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from nn.layers import Layer
from nn.model import Model, Stage
from nn.own_methods import own_methods, replaced_in_object
from strategies.base import Refused, Strategy
from strategies.sharding.blocks import Block, Layout, parts_of, take

MakeLayers = Callable[[], list[Layer]]
"""Makes a rank's layers: every rank knows all layouts, but makes only its own layers."""


def blocks_of(stage: Model) -> dict[str, Block]:
    """Return where the stage's vector has, or would have, the parameters of the whole, by name."""
    whole, start = (stage.whole, stage.start) if isinstance(stage, Stage) else (stage, 0)
    return {p.name: Block(p.start - start, p.shape) for p in whole.parameters}


def unsplit(stage: Model, need_dx: bool) -> tuple[MakeLayers, Layout]:
    """Leave a stage's layers as they are: its rank holds all their parameters.

    It also holds parameters that a layer borrows from an earlier stage.
    """

    def layers() -> list[Layer]:
        copies = [copy.copy(layer) for layer in stage.layers]
        ours = all(hasattr(each, "joined") and not own_methods(each) for each in copies)
        if ours:  # layers of torch run faster as one
            return [copies[0].joined(copies[1:], stage.input_shape)]  # type: ignore[attr-defined]
        return copies

    whole = stage.whole if isinstance(stage, Stage) else stage
    if not any(layer.borrowed for layer in whole.layers):
        return layers, [Block(0, (stage.offsets[-1],))]
    blocks, names = blocks_of(stage), (name for layer in stage.layers for name in layer.shareable)
    return layers, [blocks[name] for name in dict.fromkeys(names)]


def part_of(model: Model, layers: list[Layer], layout: Layout) -> Model:
    """Make a model of `layers`, with memory for its part of the parameters of `model` only."""
    whole, start = (model.whole, model.start) if isinstance(model, Stage) else (model, 0)
    return Model(
        layers,
        str(model.dtype),
        input_shape=model.input_shape,
        params=take(whole.params, [block.shifted(start) for block in layout]),
        loss=model.loss,
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
        if names := [name for part in _nested(layer) for name in replaced_in_object(part)]:
            raise Refused(
                f"{', '.join(names)} of layer {i}, {layer}, was assigned to the object, and "
                f"{strategy} copies layers, so the copies would compute with the weights of the "
                "original: expected a class with such a method"
            )


def _base(model: Model) -> str:
    return "TorchModel" if hasattr(model, "converted") else "Model"


def _nested(layer: Layer) -> Iterator[Layer]:
    """Yield a layer and the layers inside it."""
    yield layer
    for inner in getattr(layer, "layers", ()):
        yield from _nested(inner)


class Sharded(Strategy):
    """A strategy whose ranks hold, and update, parts of the parameters.

    The model that is given is not trained: a rank copies its part out of it, and the model can be
    deleted. Subclasses set `layouts`, the blocks that each rank of `comm` holds. Ranks that hold
    the same block hold the same values.

    Raises:
        Refused: the model is not an nn.Model, so its layers are not known; or it replaces methods
            of nn.Model, such as `gradients`, or of a layer's object, which would be left out.
    """

    splits_update = True

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

    def _keep_frozen(self, names: Collection[str]) -> None:
        """Release what is frozen in layers that are on other ranks."""
        self._frozen = {name: value for name, value in self._frozen.items() if name in names}

    def _frozen_arrays(self):
        if not self._frozen_shapes:
            return {}
        held = self.comm.allgather(list(self._frozen))
        dtype, found = self.model.params.dtype, {}
        for name, shape in self._frozen_shapes.items():
            if all(name in names for names in held):
                found[name] = np.array(self._frozen[name])
                continue
            root = next(rank for rank, names in enumerate(held) if name in names)
            mine = root == self.comm.rank
            found[name] = np.array(self._frozen[name]) if mine else np.empty(shape, dtype)
            self.comm.Bcast(found[name], root)
        return found

    def _own(self, vector):
        return take(vector, self.layouts[self.comm.rank])

    def _set_weights(self, params):
        self.model.params[:] = self._own(params)

    def _own_parts(self):
        return parts_of(self.parameters, self.layouts[self.comm.rank])

    @property
    def _norm_comm(self):
        return self.comm

    def _counted(self):
        """Yield the gradient of this rank's blocks, but of those that lower ranks hold too."""
        counted = [block for layout in self.layouts[: self.comm.rank] for block in layout]
        place = {parameter.name: i for i, parameter in enumerate(self.parameters)}
        at = 0
        for block in self.layouts[self.comm.rank]:
            for part in parts_of(self.parameters, [block]):
                if block not in counted:
                    yield place[part.name], self.model.grads[at : at + part.size]
                at += part.size
            counted.append(block)
