"""Batches of token sequences, for models that predict the next token."""

from collections.abc import Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray

from nn.batch import Batch


class Sequences(Batch):
    """A batch for a language model: each row is a sequence, each token but the first a label.

    It is sharded by rows, as any batch. The loss is the mean over all labels of the global batch,
    `length` for each row, so `global_count` counts labels. A model for it makes logits of shape
    (rows * length, vocabulary), such as "gpt2" of `nn.torch.zoo`.

    Args:
        tokens: (n, length + 1) whole numbers. Tokens 0 to length - 1 are the inputs, tokens 1 to
            length the labels. Kept as it is and read lazily, like x of a Batch.
        index: numbers of the rows that form the batch, as for a Batch.

    Raises:
        ValueError: tokens is no matrix of whole numbers with at least two columns, or the index
            names rows that are not there.
    """

    def __init__(self, tokens: NDArray, index: Sequence[int] | NDArray | None = None):
        tokens = tokens if hasattr(tokens, "shape") else np.asarray(tokens)
        whole = np.issubdtype(tokens.dtype, np.integer)
        if tokens.ndim != 2 or tokens.shape[1] < 2 or not whole:
            raise ValueError(
                f"tokens are {tokens.dtype} of shape {tuple(tokens.shape)}: expected whole "
                "numbers, a row for each sequence, with two tokens or more"
            )
        super().__init__(tokens, tokens[:, -1], index)
        self.length = tokens.shape[1] - 1
        """Number of labels in each row."""
        self.global_count = len(self) * self.length

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

    def as_global(self) -> Self:
        own = self.shard(0, 1)
        own.global_count = max(len(own) * self.length, 1)
        return own
