"""The order in which activations are sent: contiguous, features (or channels) varying fastest.

`nn` keeps them in memory in this order, images included, so the conversion copies nothing there.
"""

import numpy as np
from numpy.typing import NDArray


def to_channels_last(x: NDArray) -> NDArray:
    """Turn (rows, features, ...) into (rows, ..., features), contiguous."""
    return np.ascontiguousarray(np.moveaxis(x, 1, -1))


def from_channels_last(x: NDArray) -> NDArray:
    """Turn (rows, ..., features) into (rows, features, ...), a view."""
    return np.moveaxis(x, -1, 1)
