"""The inputs of a model: one array, or a tuple or dict of several, whose rows belong together."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nn.arguments import as_row_shape
from nn.batch import named_arrays

FLOATS, INTEGERS, BOOLS = "f", "i", "b"
"""Kinds of numbers. What an input takes is a text of these letters, most welcome first."""


class Named(dict):
    """Shapes of several inputs by name. It is hashable, so it is never changed."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))


def has_several(shape: Any) -> bool:
    """Whether this is the shape of several inputs: a dict, or a tuple of tuples."""
    return isinstance(shape, dict) or any(isinstance(each, Iterable) for each in shape)


def as_input_shape(value: Any) -> Any:
    """Return `value`, the shape of one row, or a tuple or dict of shapes, in a hashable form.

    Raises:
        TypeError: it is none of these.
        ValueError: a size is below 0.
    """
    if isinstance(value, Iterable) and has_several(value):
        return _hashable(map_inputs(as_row_shape, value))
    return as_row_shape(value)


def _hashable(shapes: Any) -> Any:
    return Named(shapes) if isinstance(shapes, dict) else shapes


def map_inputs(function: Callable[..., Any], x: Any, *others: Any) -> Any:
    """Call a function with each of several inputs, and what `others` have in its place."""
    if isinstance(x, dict):
        return {name: function(x[name], *(each[name] for each in others)) for name in x}
    return tuple(map(function, x, *others))


def count_rows(x: Any) -> int:
    """Number of rows of inputs."""
    return len(next((array for _, array in named_arrays(x, "x")), ()))


def shape_of_rows(x: Any) -> Any:
    """Shape of a row of inputs, as `as_input_shape` returns it."""
    if isinstance(x, np.ndarray):
        return x.shape[1:]
    return _hashable(map_inputs(lambda array: array.shape[1:], x))


def take_rows(x: Any, rows: slice) -> Any:
    """Return some rows of inputs, as arrays."""
    if type(x) in (tuple, dict):
        return map_inputs(lambda array: np.asarray(array[rows]), x)
    return np.asarray(x[rows])


def as_rows(x: Any, shape: Any, dtype: np.dtype, kinds: Any = FLOATS, name: str = "x") -> Any:
    """Rows x as a first layer takes them: (len(x), *shape), of a dtype that it takes.

    Sides of length 1 do not count, and either shape may be the other one flattened. Where the layer
    takes whole numbers or bools as such, they stay so (as int64). Else they become floats.

    Args:
        x: an array, or a tuple or dict of arrays.
        shape: of one row, or a tuple or dict of shapes.
        dtype: of floats.
        kinds: what the layer takes, in a tuple or dict like the shape.

    Raises:
        ValueError: the rows of x have another shape, or inputs are too many, too few, or of other
            names; or a whole number is none of dtype.
    """
    if isinstance(x, np.ndarray) and x.shape[1:] == shape:
        return _as_rows(x, shape, dtype, kinds, name)
    if not has_several(shape):
        if not hasattr(x, "shape"):
            raise ValueError(f"{len(x)} inputs: the model takes one array of rows {shape}")
        return _as_rows(x, shape, dtype, kinds, name)
    given = set(x) if isinstance(x, dict) else len(x) if isinstance(x, tuple) else 1
    wanted = set(shape) if isinstance(shape, dict) else len(shape)
    if given != wanted:
        raise ValueError(
            f"inputs {given}: the model takes {wanted}, as in its input_shape; expected x of "
            f"Batch as a {'dict' if isinstance(shape, dict) else 'tuple'} of arrays"
        )
    if isinstance(shape, dict):
        return {k: _as_rows(x[k], shape[k], dtype, kinds[k], f"x[{k!r}]") for k in shape}
    return tuple(
        _as_rows(*each, f"x[{i}]") for i, each in enumerate(zip(x, shape, [dtype] * len(x), kinds))
    )


def _as_rows(x: NDArray, shape: Any, dtype: np.dtype, kinds: str, name: str) -> NDArray:
    if x.shape[1:] != shape:
        given, wanted = ([n for n in sides if n != 1] for sides in (x.shape[1:], shape))
        flat = min(len(given), len(wanted)) <= 1 and math.prod(given) == math.prod(wanted)
        if given != wanted and not flat:
            of = "" if name == "x" else f" of {name}"
            raise ValueError(f"rows{of} of shape {x.shape[1:]}: expected {shape}, flattened or not")
    if x.dtype.kind in "iu":
        if INTEGERS in kinds:
            if x.dtype.kind == "u" and x.size and x.max() > np.iinfo(np.int64).max:
                raise ValueError(f"{name} has {x.max()}: expected numbers that int64 can hold")
            dtype = np.dtype(np.int64)
        else:
            check_exact(x, dtype, name)
    elif x.dtype.kind == "b" and BOOLS in kinds:
        dtype = np.dtype(bool)
    return x.astype(dtype, copy=False).reshape(len(x), *shape)


def check_exact(x: NDArray, dtype: np.dtype, name: str) -> None:
    """Raise ValueError if a whole number would be rounded as a float of `dtype`."""
    if dtype.kind != "f" or not x.size:  # complex, for differentiation
        return
    limit = 2 ** (np.finfo(dtype).nmant + 1)
    if np.iinfo(x.dtype).max <= limit or -limit <= int(x.min()) <= int(x.max()) <= limit:
        return
    for number in map(int, x[(x > limit) | (x < -limit)]):
        if int(dtype.type(number)) != number:
            raise ValueError(
                f"{name} has the whole number {number}, which {dtype} would round, and the model "
                "takes floats: expected smaller numbers, or dtype='float64'"
            )


def some_rows(
    shape: Any, kinds: Any, dtype: np.dtype, rows: int, rng: np.random.Generator | None = None
) -> Any:
    """Make rows that fit: normal floats, and 0 and 1 of other kinds; without `rng` zeros."""

    def make(each: Any, kind: str) -> NDArray:
        sides = (rows, *each)
        if kind.startswith(FLOATS):
            return (np.zeros(sides) if rng is None else rng.standard_normal(sides)).astype(dtype)
        numbers = np.zeros(sides, np.int64) if rng is None else rng.integers(0, 2, sides)
        return numbers.astype(bool) if kind.startswith(BOOLS) else numbers

    if not has_several(shape):
        return make(shape, kinds)
    return map_inputs(make, shape, kinds)
