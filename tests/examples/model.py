"""A user's model, and rows to train it on."""

import numpy as np
import torch


def net() -> torch.nn.Module:
    """Make two convolutions and a linear layer, for colour images of 8x8 pixels in 5 classes."""
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, padding=1),
        torch.nn.GroupNorm(2, 4),
        torch.nn.Tanh(),
        torch.nn.Conv2d(4, 4, 3, stride=2, padding=1),
        torch.nn.Tanh(),
        torch.nn.Flatten(),
        torch.nn.Linear(64, 5),
    )


net.input_shape = (3, 8, 8)  # type: ignore[attr-defined]  # the shape of a row; a Linear knows its own


def rows() -> tuple[np.ndarray, np.ndarray]:
    """Draw noisy images around one pattern for each class."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, 200)
    patterns = rng.random((5, *net.input_shape))  # type: ignore[attr-defined]
    return patterns[labels] + rng.normal(0, 0.3, (200, *net.input_shape)), labels  # type: ignore
