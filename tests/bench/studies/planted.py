"""A data set that a small net learns within some steps."""

from functools import partial

import numpy as np
from numpy.typing import NDArray

from nn import mlp
from nn.data import Dataset

ROWS, CLASSES = 90, 3

BUILD = partial(mlp, [5, 8, CLASSES], dtype="float64")


def dataset(seed: int = 1) -> Dataset:
    """Rows around a mean of their class, and other ones to validate and to test with."""
    rng = np.random.default_rng(seed)
    means = 3 * rng.standard_normal((CLASSES, 5))

    def rows(n: int) -> tuple[NDArray, NDArray]:
        y = np.arange(n) % CLASSES
        return (means[y] + rng.standard_normal((n, 5))).astype(np.float32), y

    return Dataset("planted", *rows(ROWS), *rows(60), CLASSES, *rows(45))
