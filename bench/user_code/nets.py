"""`Net`: a model that can be built again and again, and the rows to train it on."""

import copy
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.user_code import UserCodeError
from nn import Batch
from nn.inputs import some_rows
from nn.layers.embedding import EmbeddingBag
from nn.loss import CROSS_ENTROPY
from nn.own_methods import replaced_in_object

Rows = Callable[..., Batch]
"""Called with `index=`, it returns a batch of these rows; without arguments, of all rows."""


class Copies:
    """Makes models that are copies of one, which a function makes once for each dtype.

    A TorchModel tries out how its modules treat rows, and so is slow to make. Models of other
    classes, and those with a clock of the user's, are made anew each time.
    """

    def __init__(self, make: Callable[[str], Any]):
        self._make = make
        self._kept: dict[str, Any] = {}

    def __call__(self, dtype: str) -> Any:
        """Return a new model of that dtype."""
        model = self.shown(dtype)
        return copy.deepcopy(model) if dtype in self._kept else model

    def shown(self, dtype: str) -> Any:
        """Return a model of that dtype to look at, which may be the one that is copied."""
        if dtype in self._kept:
            return self._kept[dtype]
        model = self._make(dtype)
        kind = type(model)
        ours = f"{kind.__module__}.{kind.__name__}" == "nn.torch.model.TorchModel"
        if ours and model.clock is None and not replaced_in_object(model):
            self._kept[dtype] = model
        return model


@dataclass(frozen=True)
class Net:
    """A model, and the rows it is trained on.

    Attributes:
        build: makes a new model of a dtype, with the same parameters at each call.
        rows: the rows that batches are taken from; None for random rows that fit the model.
        device: where the model computes.
    """

    name: str
    build: Callable[[str], Any]
    rows: Rows | None = None
    device: str = "cpu"

    def on(self, device: str) -> "Net":
        """Return the same net on another device.

        Raises:
            UserCodeError: it is a numpy net, and the device is not the CPU.
        """
        if device == self.device:
            return self
        if not hasattr(self.build("float32"), "converted"):
            raise UserCodeError(f"{self.name} is a numpy net: expected --device cpu, not {device}")
        return replace(
            self, build=lambda dtype: self.build(dtype).converted(dtype, device), device=device
        )

    @property
    def largest_batch(self) -> int:
        """The number of rows there are; without rows of its own, as many as anybody asks for."""
        return len(self.rows()) if self.rows else sys.maxsize

    def batches(self, sizes: Sequence[int], dtype: str = "float64", seed: int = 0) -> list[Batch]:
        """Make global batches of the given sizes, the same on every rank.

        Raises:
            ValueError: a size exceeds the number of rows.
        """
        if self.rows is None:
            model = getattr(self.build, "shown", self.build)(dtype)
            return random_batches(model, sizes, seed)
        count = len(self.rows())
        if max(sizes) > count:
            raise ValueError(
                f"a batch of {max(sizes)} rows: expected at most {count}, as in --data"
            )
        rng = np.random.default_rng(seed)
        return [self.rows(index=rng.permutation(count)[:n]) for n in sizes]


def random_batches(model: Any, sizes: Sequence[int], seed: int = 0) -> list[Batch]:
    """Make batches of random rows that fit a model, the same on every rank.

    The rows of an `EmbeddingBag` are word numbers, most of them 0, 1, 2, or negative for no word.
    Inputs of other models that take no floats are 0 and 1. Targets are of the first kind that the
    loss takes: numbers of classes, random numbers, or 0 and 1.
    """
    rng = np.random.default_rng(seed)
    words = isinstance(model.layers[0], EmbeddingBag)

    def x(n: int) -> Any:
        if words:
            return np.trunc(rng.standard_normal((n, *model.input_shape))).astype(model.dtype)
        return some_rows(model.input_shape, model.kinds, model.dtype, n, rng)

    targets = _targets(model)
    return [Batch(x(n), targets(rng, n)) for n in sizes]


def _targets(model: Any) -> Callable[[np.random.Generator, int], NDArray]:
    """Find out what targets fit the model's outputs and loss."""
    outputs = model.row_shape(len(model.layers))
    tokens = math.prod(layer.rows_each for layer in model.layers)
    places = (tokens,) if tokens > 1 else outputs[1:]
    kinds: list[Callable[[np.random.Generator, int], NDArray]] = [
        lambda rng, n: rng.integers(0, outputs[0], (n, *places)),
        lambda rng, n: rng.standard_normal((n, *outputs)),
        lambda rng, n: rng.integers(0, 2, (n, *outputs)),
    ]
    failures, loss = [], getattr(model, "loss", CROSS_ENTROPY)
    made = np.zeros((2 * tokens, *outputs), model.dtype)
    for kind in kinds:
        targets = kind(np.random.default_rng(0), 2)
        try:
            loss(made, targets, loss.count(targets))
            return kind
        except Exception as error:
            failures.append(str(error))
    raise ValueError(
        f"no random targets fit {loss} ({failures[0]}): expected --data with rows and targets"
    )
