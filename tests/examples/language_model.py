"""A language model of one's own, and sequences of tokens to train it on."""

import numpy as np
import torch

from nn.sequences import Sequences
from nn.torch.model import TorchModel

WORDS, LENGTH = 11, 6


def net() -> TorchModel:
    """Which token comes next? For (n, 6) tokens logits of shape (n * 6, 11), one row a token."""
    return TorchModel(
        [
            torch.nn.Embedding(WORDS, 8),
            torch.nn.Dropout(0.1),
            torch.nn.Linear(8, WORDS),
            torch.nn.Flatten(0, 1),
        ],
        input_shape=(LENGTH,),
        seed=1,
    )


def tokens() -> Sequences:
    """Rows of 7 tokens: 6 inputs, and what follows each. Most often it is the next number."""
    rng = np.random.default_rng(0)
    steps = rng.choice([1, 2], (300, LENGTH + 1), p=[0.8, 0.2])
    return Sequences(np.cumsum(steps, axis=1) % WORDS)
