"""How large a user's file may be: checked in its header before anything is read."""

import math

LARGEST_VALUES = 1 << 28
"""342,000 images of 28x28, five times MNIST. A file that claims more is refused as damaged."""

LARGEST_BYTES = 1 << 32
"""Of a whole file as it lies on disk."""


def check_shape(name: str, shape: tuple[int, ...]) -> None:
    """Raises ValueError where the header of an array claims no values, or unreasonably many."""
    if min(shape, default=1) < 1 or math.prod(shape) > LARGEST_VALUES:
        raise ValueError(
            f"{name} says that its shape is {shape}; expected 1 to {LARGEST_VALUES:,} values"
        )
