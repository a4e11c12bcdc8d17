"""The contract of a layer: a forward and a backward function over parameters it does not own.

`forward` returns what `backward` will need (`ctx`) instead of keeping it, so any number of
micro-batches may be between their forward and their backward at once. Parameters and gradients are
views that `bind` is given; a layer allocates neither.
"""

import math
from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Shape = tuple[int, ...]


class Layer:
    """The contract of all layers, with defaults for a layer without parameters."""

    shapes: tuple[Shape, ...] = ()
    """Shapes of the parameters, in the order in which they lie in the flat vector."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the parameters, in the order of `shapes`."""
        usual = ("weight", "bias")
        return (*usual, *(f"parameter{i}" for i in range(2, len(self.shapes))))[: len(self.shapes)]

    params: tuple[NDArray, ...] = ()
    grads: tuple[NDArray, ...] = ()

    def name_in_model(self, i: int, name: str) -> str:
        """Name of a parameter of this layer, if it is the i-th of a model."""
        return f"{i}.{name}"

    shareable: tuple[str, ...] = ()
    """Names, unique in the model, of parameters that other layers may have too (tied weights)."""

    borrowed: tuple[str, ...] = ()
    """Names of the parameters that belong to an earlier layer; they are not in `shapes`."""

    may_lack_gradient: tuple[str, ...] = ()
    """Names of parameters whose gradient `backward` may mark as absent, by `NO_GRADIENT`."""

    @property
    def is_trained(self) -> bool:
        """Whether the layer has parameters that are trained, its own or borrowed."""
        return bool(self.shapes or self.borrowed)

    @property
    def frozen(self) -> dict[str, Any]:
        """Arrays that the layer computes with and training leaves as they are, by name.

        They are the very memory that the layer uses. They are NDArrays, or on other devices objects
        with `shape` that numpy can read and that `value[...] = array` writes.
        """
        return {}

    only_first = False
    """Whether the layer has no input gradient, so that it must be the first of a model."""

    takes_several = False
    """Whether the layer takes several inputs, if it is the first of a model."""

    rows_each = 1
    """Output rows per input row: 1, or one per token behind a language model's last layers."""

    @property
    def n_params(self) -> int:
        """Number of parameters."""
        return sum(math.prod(shape) for shape in self.shapes)

    def init(self, rng: np.random.Generator) -> tuple[NDArray, ...]:
        """Initial values of the parameters, float64, in the order of `shapes`."""
        return ()

    def bind(self, params: NDArray, grads: NDArray) -> None:
        """Make `params` and `grads` views into two vectors of length `n_params`."""
        ends = np.cumsum([math.prod(shape) for shape in self.shapes])[:-1]
        self.params, self.grads = (
            tuple(part.reshape(shape) for part, shape in zip(np.split(v, ends), self.shapes))
            if self.shapes
            else ()
            for v in (params, grads)
        )

    def share(self, borrowed: Collection[str], adds: Collection[str]) -> None:
        """Leave out of `shapes` the parameters that an earlier layer owns. See `nn.layers.ties`.

        Args:
            borrowed: names in `shareable` that an earlier layer owns.
            adds: names whose gradient `backward` always adds to, behind layers that wrote it.
        """
        raise NotImplementedError

    def borrow(self, views: Sequence[tuple[NDArray, NDArray]]) -> None:
        """Use these parameters and gradients of other layers, in the order of `borrowed`."""

    def row_shape(self, shape: Shape) -> Shape:
        """Shape of one output row for one input row of `shape`.

        Raises:
            ValueError: the layer cannot take such rows.
        """
        return shape

    def kinds(self, shape: Any) -> Any:
        """Kinds of numbers that a first layer takes of inputs of this shape; see `nn.inputs`."""
        return "f"

    def forward(self, x: NDArray) -> tuple[NDArray, Any]:
        """Output for rows x, (rows, ...), and the context that `backward` needs.

        Never writes into x, with one exception: ReLU(in_place=True).
        """
        raise NotImplementedError

    def backward(
        self, dy: NDArray, ctx: Any, need_dx: bool = True, add: bool = False
    ) -> NDArray | None:
        """Write (or add) the gradients of the parameters; return the gradient of the input.

        Args:
            dy: gradient of the loss with respect to the output; may be overwritten.
            ctx: what `forward` returned for the same rows.
            need_dx: False skips the gradient of the input, which a first layer does not need and
                which is often its largest product.
            add: add to the gradients of the parameters instead of replacing them.
        """
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


def write_product(a: NDArray, b: NDArray, out: NDArray, add: bool) -> None:
    """Write the matrix product a @ b into `out`, or add it there."""
    if add:
        out += a @ b
    else:
        np.matmul(a, b, out=out)


def write_row_sum(dy: NDArray, out: NDArray, add: bool) -> None:
    """Write the sum of the rows of `dy` into `out`, or add it there."""
    write_product(_ones(len(dy), dy.dtype), dy, out, add)  # half the time of dy.sum(axis=0)


@lru_cache(maxsize=16)
def _ones(length: int, dtype: np.dtype) -> NDArray:
    """Return ones, read-only, which take as long to make as few rows take to sum."""
    ones = np.ones(length, dtype)
    ones.flags.writeable = False
    return ones
