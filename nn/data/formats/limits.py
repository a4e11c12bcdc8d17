"""Limits on the size of a user's file, which are checked before its values are read."""

import math

LARGEST_VALUES = 1 << 28
"""Most values in an array: 342,000 images of 28x28, five times MNIST. More is taken for damage."""

LARGEST_BYTES = 1 << 32
"""Most bytes of a file on disk."""

MOST_EXPANDED = 8 * LARGEST_VALUES
"""Most bytes that all compressed arrays of a file expand to: a small one may claim any number."""


def check_shape(name: str, shape: tuple[int, ...]) -> None:
    """Check the shape that the header of an array claims.

    Raises:
        ValueError: it has no values, or unreasonably many.
    """
    if min(shape, default=1) < 1 or math.prod(shape) > LARGEST_VALUES:
        raise ValueError(
            f"{name} says that its shape is {shape}; expected 1 to {LARGEST_VALUES:,} values"
        )
