"""Batches of token sequences, for models that predict the next token."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nn.batch import Batch, as_array


class Sequences(Batch):
    """A batch for a language model: each row is a sequence, each token but the first a label.

    It is sharded by rows, as any batch. The loss is the mean over all labels of the global batch,
    `length` for each row. A model for it makes logits of shape
    (rows * length, vocabulary), such as "gpt2" of `nn.torch.zoo`.

    Args:
        tokens: (n, length + 1) whole numbers. Tokens 0 to length - 1 are the inputs, tokens 1 to
            length the labels. Kept as it is and read lazily, like x of a Batch.
        index, weights: of the rows, as for a Batch.

    Raises:
        ValueError: tokens is no matrix of whole numbers with at least two columns, or the index
            names rows that are not there.
    """

    def __init__(
        self,
        tokens: NDArray,
        index: Sequence[int] | NDArray | None = None,
        weights: Sequence[float] | NDArray | None = None,
    ):
        tokens = as_array(tokens, "tokens")
        whole = np.issubdtype(tokens.dtype, np.integer)
        if tokens.ndim != 2 or tokens.shape[1] < 2 or not whole:
            raise ValueError(
                f"tokens are {tokens.dtype} of shape {tuple(tokens.shape)}: expected whole "
                "numbers, a row for each sequence, with two tokens or more"
            )
        super().__init__(tokens, tokens[:, -1], index, weights)
        self.length = tokens.shape[1] - 1
        """Number of labels in each row."""

    def _global_shape(self) -> tuple[int, ...]:
        return (self.global_rows * self.length,)

    @property
    def tokens(self) -> NDArray:
        """The whole sequences held, (len(self), length + 1)."""
        return super().x

    @property
    def x(self) -> NDArray:
        """The inputs held, (len(self), length)."""
        return self.tokens[:, :-1]

    @property
    def y(self) -> NDArray:
        """The labels held, (len(self) * length,)."""
        return self.tokens[:, 1:].ravel()

    @property
    def weights(self) -> NDArray | None:
        """The weight of each label held, that of its row, (len(self) * length,), or None."""
        weights = super().weights
        return None if weights is None else np.repeat(weights, self.length)
