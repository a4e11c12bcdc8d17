"""What every source hands over: rows as they are found, and the ways to divide them."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

ONE_IN = 7
"""One row in seven is for testing where a source has no test rows: MNIST's 10,000 of 70,000."""


CHUNK = 4_096
"""Rows converted at once: bounds the memory that a conversion takes."""

DRAWN = 1_000
"""Images drawn at once, for the same reason."""


@dataclass(frozen=True)
class Raw:
    """Rows before preparation, in memory.

    Attributes:
        x: (n, d) training inputs, any real dtype; images as uint8.
        y: (n,) int64 labels in 0..classes-1.
        x_test: (m, d) test inputs, None where the source does not divide its rows.
        y_test: (m,) test labels, None with `x_test`.
        classes: number of classes.
        origin: where the rows come from, for messages.
        images: the columns are pixels of one scale, not quantities each with its own unit.
    """

    x: NDArray
    y: NDArray[np.int64]
    x_test: NDArray | None
    y_test: NDArray[np.int64] | None
    classes: int
    origin: str
    images: bool


def check(raw: Raw) -> None:
    """Finite numbers, labels in range, shapes that fit.

    Raises:
        ValueError: otherwise; the message names the origin and the place.
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
    """Shuffled row numbers for training and for testing, every class in both in proportion.

    Raises:
        ValueError: there are too few rows of some class to have it on both sides.
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


def divide(
    raw: Raw, size: int | None, seed: int
) -> tuple[NDArray, NDArray[np.int64], NDArray, NDArray[np.int64]]:
    """x and y of `size` training rows, x and y of the test rows.

    Rows without test rows of their own are divided first (stratified). The training rows kept
    are a seeded random choice, a smaller one being part of any larger one.

    Raises:
        ValueError: `size` is more than the training rows there are.
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
    return raw.x[train], raw.y[train], x_test, y_test


def draw(
    paint: Callable[[NDArray, Generator], NDArray], subjects: NDArray, seed: tuple[int, int]
) -> NDArray:
    """`paint(subjects, random numbers)`, each chunk with a generator of its own."""
    return np.concatenate(
        [
            paint(subjects[lo : lo + DRAWN], np.random.default_rng((*seed, lo)))
            for lo in range(0, len(subjects), DRAWN)
        ]
    )
