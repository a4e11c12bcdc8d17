"""Rows as a source has them, checks of them, and their division into parts."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from nn.data.validation import Fold, hold_out

ONE_IN = 7
"""One row in seven is for testing if a source has no test rows, as in MNIST (10,000 of 70,000)."""


CHUNK = 4_096
"""Number of rows converted at once, which bounds the memory that a conversion takes."""

DRAWN = 1_000
"""Number of images drawn at once, which bounds the memory that drawing takes."""


@dataclass(frozen=True)
class Raw:
    """Rows before preparation, in memory.

    Attributes:
        x: (n, d) training inputs of any real dtype; images are uint8.
        y: (n,) int64 labels in 0..classes-1.
        x_test: (m, d) test inputs, or None if the source does not divide its rows.
        y_test: (m,) test labels, or None like `x_test`.
        classes: number of classes.
        origin: where the rows come from, for error messages.
        images: whether columns are pixels of one scale, not quantities with units of their own.
    """

    x: NDArray
    y: NDArray[np.int64]
    x_test: NDArray | None
    y_test: NDArray[np.int64] | None
    classes: int
    origin: str
    images: bool


def check(raw: Raw) -> None:
    """Check that numbers are finite, labels in range, and shapes fit each other.

    Raises:
        ValueError: they are not; the message names the origin and the place.
    """
    for name, x, y in (("x", raw.x, raw.y), ("x_test", raw.x_test, raw.y_test)):
        if x is None or y is None:
            continue
        if x.ndim != 2 or not x.size or x.dtype.kind not in "biuf":
            raise ValueError(
                f"{raw.origin}: {name} is {x.dtype} of shape {x.shape}; "
                "expected real numbers, one row per example"
            )
        if len(x) != len(y):
            raise ValueError(
                f"{raw.origin}: {len(x):,} rows in {name} and {len(y):,} labels; "
                "expected one label per row"
            )
        if x.shape[1] != raw.x.shape[1]:
            raise ValueError(
                f"{raw.origin}: {x.shape[1]} columns in {name} and {raw.x.shape[1]} in x; "
                "expected equally many"
            )
        if y.min() < 0 or y.max() >= raw.classes:
            raise ValueError(
                f"{raw.origin}: labels from {y.min()} to {y.max()}; expected 0 to {raw.classes - 1}"
            )
        if x.dtype.kind == "f":
            for lo in range(0, len(x), CHUNK):
                bad = np.argwhere(~np.isfinite(x[lo : lo + CHUNK]))
                if len(bad):
                    row, column = bad[0] + (lo, 0)
                    raise ValueError(
                        f"{raw.origin}: {name} holds {x[row, column]} in row {row}, column "
                        f"{column}; expected finite numbers"
                    )


def stratified(y: NDArray, seed: int, origin: str) -> tuple[NDArray, NDArray]:
    """Divide row numbers, shuffled, into training and test rows, with every class in proportion.

    Raises:
        ValueError: some class has too few rows to occur on both sides.
    """
    from sklearn.model_selection import train_test_split  # slow to import; not needed when cached

    try:
        train, test = train_test_split(
            np.arange(len(y)), test_size=1 / ONE_IN, stratify=y, random_state=seed
        )
    except ValueError as error:
        raise ValueError(
            f"{origin}: {len(y)} rows cannot be divided into training and test rows of every "
            f"class ({error}); expected more rows, or test rows of their own"
        ) from None
    return train, test


Part = tuple[NDArray, NDArray[np.int64]]
"""x, (n, d), and y, (n,), of some rows."""


def divide(
    raw: Raw, size: int | None, seed: int, validation: float | Fold | None = None
) -> tuple[Part, Part | None, Part]:
    """Return the rows that train, those that validate (None without `validation`), and test rows.

    A source without test rows is divided first (stratified). The training rows kept are a random
    choice by `seed`; a smaller choice is a part of every larger one. Rows that validate are taken
    from these.

    Raises:
        ValueError: there are fewer than `size` training rows, or too few to divide.
    """
    if raw.x_test is None or raw.y_test is None:
        train, test = stratified(raw.y, seed, raw.origin)
        x_test, y_test = raw.x[test], raw.y[test]
    else:
        train, x_test, y_test = np.arange(len(raw.y)), raw.x_test, raw.y_test
    if size is not None and size > len(train):
        raise ValueError(
            f"size={size}: {raw.origin} has {len(train)} training rows; "
            f"expected size from 1 to {len(train)}"
        )
    if size is not None and size < len(train):
        train = np.random.default_rng(seed).permutation(train)[:size]
    held = None
    if validation is not None:
        kept, left_out = hold_out(raw.y[train], validation, seed, raw.origin)
        held = raw.x[train[left_out]], raw.y[train[left_out]]
        train = train[kept]
    return (raw.x[train], raw.y[train]), held, (x_test, y_test)


def draw(
    paint: Callable[[NDArray, Generator], NDArray], subjects: NDArray, seed: tuple[int, int]
) -> NDArray:
    """Paint all subjects, chunk by chunk, each chunk with a random generator of its own."""
    return np.concatenate(
        [
            paint(subjects[lo : lo + DRAWN], np.random.default_rng((*seed, lo)))
            for lo in range(0, len(subjects), DRAWN)
        ]
    )
