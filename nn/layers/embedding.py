"""Features that are words: a table with a row of parameters for each, of which few are touched."""

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from nn.arguments import as_int
from nn.layers.base import Layer

LARGEST = 2**24
"""Numbers up to this one pass through float32 unharmed."""


class EmbeddingBag(Layer):
    """Sum of the table rows that each input row names: (rows, length) numbers -> (rows, width).

    The same as one-hot features, summed, times a matrix, without the zeros; with `width` classes
    it is logistic regression on words. Numbers below 0 name no row, so that inputs of different
    lengths can be filled up. Gradients are 0 but for the rows that were named; see `support`.

    Args:
        vocabulary: rows of the table, of shape (vocabulary, width).
        width: outputs.
        std: standard deviation of the initial table.

    Raises:
        TypeError, ValueError: vocabulary is not in 1 to 2**24, or width is below 1.
    """

    only_first = True

    def __init__(self, vocabulary: int, width: int, std: float = 0.01):
        self.vocabulary = as_int("vocabulary", vocabulary, 1, LARGEST)
        self.width, self.std = as_int("width", width, 1), std
        self.shapes = ((self.vocabulary, self.width),)
        self._named = np.empty(0, np.intp)

    @property
    def support(self) -> NDArray[np.intp]:
        """Elements of this layer's gradient, increasing, that the last `backward` wrote to.

        All others are 0, unless they were not before a `backward(add=True)`.
        """
        return (self._named[:, None] * self.width + np.arange(self.width)).ravel()

    def init(self, rng):
        return (rng.normal(0, self.std, self.shapes[0]),)

    def row_shape(self, shape):
        if len(shape) != 1:
            raise ValueError(f"{self} cannot take rows of shape {shape}: expected a vector")
        return (self.width,)

    def forward(self, x):
        with np.errstate(invalid="ignore"):  # what is no number is said below
            numbers = x.astype(np.intp)
        wrong = x[(numbers != x) | (numbers >= self.vocabulary)]
        if wrong.size:
            raise ValueError(
                f"{self} has no row {wrong[0]:.9g}: expected whole numbers up to "
                f"{self.vocabulary - 1}, and below 0 for no row"
            )
        given = numbers >= 0
        named, columns = np.unique(numbers[given], return_inverse=True)
        ends = np.append(0, given.sum(axis=1).cumsum())
        counts = sparse.csr_array(
            (np.ones(len(columns), x.dtype), columns, ends), shape=(len(x), len(named))
        )
        return counts @ self.params[0][named], (named, counts)

    def backward(self, dy, ctx, need_dx=True, add=False):
        self._named, counts = ctx
        if not add:
            self.grads[0][...] = 0
        self.grads[0][self._named] += counts.T @ dy
        return None  # there is no gradient of a row number

    def __repr__(self) -> str:
        return f"EmbeddingBag({self.vocabulary}, {self.width})"
