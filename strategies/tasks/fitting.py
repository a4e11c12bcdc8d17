"""One whole training in one process, and how well its model sorts rows into classes."""

import hashlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nn.arguments import as_int
from nn.data import Dataset
from strategies.sequential import Sequential
from strategies.training import History, train


@dataclass(frozen=True)
class Score:
    """How many rows a model sorts into the right class.

    Attributes:
        right: of each class, how many of its rows.
        rows: of each class, how many it has.
    """

    right: list[int]
    rows: list[int]

    @property
    def accuracy(self) -> float:
        """The share of all rows."""
        return sum(self.right) / sum(self.rows)


def score(predicted: NDArray, y: NDArray, classes: int) -> Score:
    """Count the rows that were sorted right.

    Args:
        predicted, y: (n,) classes.
        classes: number of classes.

    Raises:
        ValueError: `predicted` holds no class for each row.
    """
    if predicted.shape != y.shape or predicted.dtype.kind not in "iu":
        raise ValueError(
            f"the model predicts {predicted.dtype} of shape {predicted.shape} for {len(y)} rows: "
            "expected a class for each, which a loss of classes makes of the outputs"
        )
    right = np.bincount(y[predicted == y], minlength=classes)
    return Score(right.tolist(), np.bincount(y, minlength=classes).tolist())


def fit(
    strategy: Sequential,
    rows: Dataset,
    *,
    batch_size: int,
    epochs: int,
    seed: int,
    checkpoint: str | PathLike[str] | None = None,
    checkpoint_every: int | None = None,
    on_step: Callable[[History], Any] | None = None,
) -> History:
    """Train a model in this process; arguments as for `strategies.train`.

    With a checkpoint and no `checkpoint_every` it is written at the end only.
    """
    if checkpoint is not None and checkpoint_every is None:
        checkpoint_every = sys.maxsize
    return train(
        strategy,
        rows,
        batch_size=batch_size,
        epochs=epochs,
        seed=seed,
        on_step=on_step,
        checkpoint=checkpoint,
        checkpoint_every=checkpoint_every,
    )


def check_set(dataset: Any) -> None:
    """Raise TypeError unless it is a data set of `nn.data`."""
    if not isinstance(dataset, Dataset):
        raise TypeError(f"dataset is {type(dataset).__name__}: expected a set from nn.data.load")


def check_terms(optimizers: Mapping[str, Any], batch_size: Any, epochs: Any, **steps: Any) -> None:
    """Raise TypeError or ValueError unless a training can be made of these arguments.

    Args:
        optimizers: by the name that a message gives them.
        steps: further numbers of steps, or None.
    """
    for name, make in optimizers.items():
        if not callable(make):
            raise TypeError(f"{name}={make!r}: expected a function, e.g. nn.SGD")
    given = {name: number for name, number in steps.items() if number is not None}
    for name, number in {"batch_size": batch_size, "epochs": epochs, **given}.items():
        as_int(name, number, 1)


def validation_rows(rows: Dataset) -> tuple[NDArray, NDArray]:
    """Return x and y of the rows that were set aside to validate.

    Raises:
        TypeError: it is no data set.
        ValueError: there are none.
    """
    check_set(rows)
    if rows.x_validation is None or rows.y_validation is None:
        raise ValueError(
            f"{rows.name} has no validation rows: expected a set from nn.data.load(..., "
            "validation=0.2)"
        )
    return rows.x_validation, rows.y_validation


def digest(weights: NDArray) -> str:
    """32 hexadecimal digits that two trainings have in common only if all bits are equal."""
    return hashlib.sha256(np.ascontiguousarray(weights).tobytes()).hexdigest()[:32]
