"""Nets, schedules and sets of the tests of tasks. They are picklable, for workers of any kind."""

import os
import signal
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

import nn
from nn.layers import Linear, Tanh
from nn.lr_schedules import Schedule, warm_restarts

ROWS, COLUMNS, CLASSES = 60, 4, 3
MARKER = 1e4
"""A value far from all others: whatever is fitted with it shows it."""


def three_restarts(steps: int) -> Schedule:
    return warm_restarts(0.1, max(1, steps // 3))


def small(seed: int, loss: Any = None) -> nn.Model:
    return nn.mlp([COLUMNS, 5, CLASSES], seed=seed, loss=loss)


def small_torch(seed: int, loss: Any = None, inputs: int = COLUMNS) -> Any:
    import torch

    from nn.torch import TorchModel

    def net() -> torch.nn.Module:
        hidden = torch.nn.Linear(inputs, 6)
        return torch.nn.Sequential(hidden, torch.nn.Tanh(), torch.nn.Linear(6, CLASSES))

    return TorchModel(net, seed=seed, loss=loss)


def wide(seed: int, width: int, loss: Any = None) -> nn.Model:
    return nn.mlp([COLUMNS, width, CLASSES], seed=seed, loss=loss)


def wide_or_failing(seed: int, width: int) -> nn.Model:
    return failing(seed) if width == 3 else wide(seed, width)


def failing(seed: int, loss: Any = None) -> nn.Model:
    raise ValueError("this net cannot be built")


class Watching(nn.Model):
    """A small net that notes the first column of every row that it trains on or sorts."""

    seen: ClassVar[list[dict[str, set[int]]]] = []
    """Of each net, the rows by what was done with them."""

    def __init__(self, seed: int, width: int = 5):
        super().__init__([Linear(COLUMNS, width), Tanh(), Linear(width, CLASSES)], seed=seed)
        self.notes: dict[str, set[int]] = {"trained": set(), "sorted": set()}
        Watching.seen.append(self.notes)

    def gradients(self, batch, add=False, ready=None):
        self.notes["trained"] |= {int(number) for number in batch.x[:, 0]}
        return super().gradients(batch, add, ready)

    def predict(self, x, rows=1024):
        self.notes["sorted"] |= {int(number) for number in x[:, 0]}
        return super().predict(x, rows)

    def outputs(self, x, rows=1024):
        self.notes["sorted"] |= {int(number) for number in x[:, 0]}
        return super().outputs(x, rows)


class Living(nn.Model):
    """A small net."""

    def __init__(self, seed: int):
        super().__init__([Linear(COLUMNS, 5), Tanh(), Linear(5, CLASSES)], seed=seed)


class Dying(Living):
    """The same net; its process dies at the eighth step that it takes in one attempt."""

    steps = 0

    def gradients(self, batch, add=False, ready=None):
        self.steps += 1
        if self.steps == 8:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().gradients(batch, add, ready)


def numbered_rows() -> dict[str, NDArray]:
    """A set of rows whose column 0 is their number; test rows have numbers from 1,000 on."""
    rng = np.random.default_rng(0)
    y, y_test = np.arange(ROWS) % CLASSES, np.arange(12) % CLASSES
    x, x_test = rng.standard_normal((ROWS, COLUMNS)), rng.standard_normal((12, COLUMNS))
    x[:, 1] += y
    x_test[:, 1] += y_test
    x[:, 0], x_test[:, 0] = np.arange(ROWS), 1_000 + np.arange(12)
    return {"x": x, "y": y, "x_test": x_test, "y_test": y_test}


def learnable_rows() -> dict[str, NDArray]:
    """A set of rows that nets can tell apart, some better than others."""
    rng = np.random.default_rng(1)
    rows: dict[str, NDArray] = {}
    for suffix in ("", "_test"):
        y = np.arange(ROWS) % CLASSES
        x = rng.standard_normal((ROWS, COLUMNS))
        x[np.arange(ROWS), y] += 2.5
        rows |= {f"x{suffix}": x, f"y{suffix}": y}
    return rows


def write(path: Path, **changed: NDArray) -> Path:
    """Write the set, with these arrays in the place of its own."""
    np.savez(path, **(numbered_rows() | changed))  # type: ignore[arg-type]
    return path
