"""Checks of arguments, shared by all packages."""

import math
from collections.abc import Iterable
from numbers import Real
from operator import index
from typing import SupportsIndex


def as_int(name: str, value: SupportsIndex, least: int, most: int | None = None) -> int:
    """Return `value` as an int.

    Raises:
        TypeError: it is not a whole number (a bool is not accepted).
        ValueError: it is less than `least` or more than `most`.
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        number = index(value)
    except TypeError:
        raise TypeError(f"{name}={value!r}: expected a whole number") from None
    if number < least or (most is not None and number > most):
        wanted = f"{least} or more" if most is None else f"from {least} to {most}"
        raise ValueError(f"{name}={number}: expected {wanted}")
    return number


def as_row_shape(value: Iterable[SupportsIndex]) -> tuple[int, ...]:
    """Return `value`, the shape of one row of a model's data, as a tuple of ints.

    Raises:
        TypeError: it is not a sequence of whole numbers.
        ValueError: a size is below 0.
    """
    if not isinstance(value, Iterable):
        raise TypeError(
            f"input_shape={value!r}: expected the shape of one row, e.g. (4,) or (1, 28, 28)"
        )
    return tuple(as_int("input_shape", size, 0) for size in value)


def as_float(name: str, value: float, low: float, high: float = math.inf) -> float:
    """Return `value` as a float.

    Raises:
        TypeError: it is not a number (a bool is not accepted).
        ValueError: it is not at least `low` and below `high`; NaN never is.
    """
    if not isinstance(value, Real) or isinstance(value, bool):  # numpy's numbers are Real
        raise TypeError(f"{name}={value!r}: expected a number")
    if not low <= value < high:
        raise ValueError(f"{name}={value!r}: expected {low} <= {name} < {high}")
    return float(value)
