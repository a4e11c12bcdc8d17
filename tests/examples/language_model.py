"""A user's language model, and sequences of tokens to train it on."""

import numpy as np
import torch

from nn.sequences import Sequences
from nn.torch.model import TorchModel

WORDS, LENGTH = 11, 6


def net() -> TorchModel:
    """Make a net that predicts the next token: (n, 6) tokens -> (n * 6, 11) logits."""
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
    """Draw rows of 7 tokens, 6 inputs and what follows each: most often the next number."""
    rng = np.random.default_rng(0)
    steps = rng.choice([1, 2], (300, LENGTH + 1), p=[0.8, 0.2])
    return Sequences(np.cumsum(steps, axis=1) % WORDS)
