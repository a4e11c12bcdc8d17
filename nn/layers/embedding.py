"""A layer for features that are words: a table with one row of parameters per word."""

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from nn.arguments import as_int
from nn.layers.base import Layer


class EmbeddingBag(Layer):
    """Sum of the table rows that each input row names: (rows, length) numbers -> (rows, width).

    The result equals the sum of one-hot features times a matrix, without the zeros. With `width`
    classes it is logistic regression on words. A number below 0 names no row, so inputs of
    different lengths can be padded. Only table rows that were named have a gradient other than 0;
    see `support`.

    Args:
        vocabulary: rows of the table, of shape (vocabulary, width).
        width: features of an output row.
        std: standard deviation of the initial table.

    Raises:
        TypeError, ValueError: vocabulary or width is below 1, or no whole number.
    """

    only_first = True

    def __init__(self, vocabulary: int, width: int, std: float = 0.01):
        self.vocabulary = as_int("vocabulary", vocabulary, 1)
        self.width, self.std = as_int("width", width, 1), std
        self.shapes = ((self.vocabulary, self.width),)
        self._named = np.empty(0, np.intp)

    @property
    def support(self) -> NDArray[np.intp]:
        """Places in this layer's gradient that the last `backward` wrote to, increasing.

        All other elements are 0, unless a `backward(add=True)` kept older values there.
        """
        return (self._named[:, None] * self.width + np.arange(self.width)).ravel()

    def init(self, rng):
        return (rng.normal(0, self.std, self.shapes[0]),)

    def row_shape(self, shape):
        if len(shape) != 1:
            raise ValueError(f"{self} cannot take rows of shape {shape}: expected a vector")
        return (self.width,)

    def kinds(self, shape):
        return "if"

    def forward(self, x):
        with np.errstate(invalid="ignore"):  # NaN and infinity are refused below
            numbers = x.astype(np.intp)
        wrong = x[(numbers != x) | (numbers >= self.vocabulary)]
        if wrong.size:
            raise ValueError(
                f"{self} has no row {wrong[0]:.9g}: expected whole numbers up to "
                f"{self.vocabulary - 1}, and below 0 for no row"
            )
        if x.dtype.kind == "f" and (numbers >= 2 / np.finfo(x.dtype).eps).any():
            raise ValueError(
                f"numbers of rows reach {self} as {x.dtype}, the dtype of the model, which rounds "
                f"those as large as {numbers.max()}: expected x of an integer dtype"
            )
        given = numbers >= 0
        named, columns = np.unique(numbers[given], return_inverse=True)
        ends = np.append(0, given.sum(axis=1).cumsum())
        counts = sparse.csr_array(
            (np.ones(len(columns), self.params[0].dtype), columns, ends), shape=(len(x), len(named))
        )
        return counts @ self.params[0][named], (named, counts)

    def backward(self, dy, ctx, need_dx=True, add=False):
        self._named, counts = ctx
        if not add:
            self.grads[0][...] = 0
        self.grads[0][self._named] += counts.T @ dy
        return None  # a row number has no gradient

    def __repr__(self) -> str:
        return f"EmbeddingBag({self.vocabulary}, {self.width})"
