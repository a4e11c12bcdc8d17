"""Activations as they are sent: contiguous, features (or channels) varying fastest.

That is how `nn` keeps them in memory, images included, so this costs no copy there.
"""

import numpy as np
from numpy.typing import NDArray


def to_channels_last(x: NDArray) -> NDArray:
    """(rows, features, ...) to (rows, ..., features), contiguous."""
    return np.ascontiguousarray(np.moveaxis(x, 1, -1))


def from_channels_last(x: NDArray) -> NDArray:
    """(rows, ..., features) to (rows, features, ...), a view."""
    return np.moveaxis(x, -1, 1)
