"""Dropout masks that do not depend on how a batch is split over ranks and micro-batches."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np
from numpy.typing import NDArray

from nn.batch import Batch

_forward: ContextVar[Batch | None] = ContextVar("forward", default=None)
"""The rows whose forward is running."""


@contextmanager
def rows_of(batch: Batch) -> Iterator[None]:
    """Let masks that are drawn in the `with` block belong to the rows that `batch` holds.

    A row is known by its number in the data (`Batch.row_ids`), which neither sharding the batch
    nor reading it ahead changes.
    """
    token = _forward.set(batch)
    try:
        yield
    finally:
        _forward.reset(token)


def row_ids() -> NDArray[np.integer]:
    """Numbers of the rows whose forward is running, (rows,).

    Raises:
        ValueError: the forward does not run within `rows_of`, so its rows are unknown.
    """
    batch = _forward.get()
    if batch is None:
        raise ValueError(
            "dropout in training outside of rows_of(batch): expected the forward within it, since "
            "masks belong to rows"
        )
    return batch.row_ids


def mask(
    p: float, key: tuple[int, ...], units: int, rows: NDArray[np.integer] | None = None
) -> NDArray[np.bool_]:
    """Draw which units are kept, (rows, units), each with probability 1 - p.

    The mask is a hash of key, row and unit: counters go through the finalizer of SplitMix64
    (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014, figure 14).

    Args:
        p: probability of dropping a unit, 0 <= p < 1.
        key: whole numbers from 0 to 2^64 - 2, such as seed, layer and step; each changes the mask.
        units: number of units in a row.
        rows: numbers of the rows, (rows,); by default `row_ids()`.

    Raises:
        ValueError: no rows are given, and the forward does not run within `rows_of`.
    """
    rows = row_ids() if rows is None else rows
    state = _mix(_state(key) + rows.astype(np.uint64) * _GAMMA)
    hashes = _mix(state[:, None] + np.arange(1, units + 1, dtype=np.uint64) * _GAMMA)
    return hashes >= np.uint64(int(p * 2**64))


def hashed(*key: int) -> int:
    """A hash of 63 bits of whole numbers from 0 to 2^64 - 2."""
    return int(_state(key)[0] >> np.uint64(1))


def _state(key: tuple[int, ...]) -> NDArray[np.uint64]:
    """The hash of a key, (1,)."""
    state = np.zeros(1, np.uint64)
    for number in key:
        state = _mix(state + np.array([number + 1], np.uint64) * _GAMMA)
    return state


_GAMMA = np.uint64(0x9E3779B97F4A7C15)


def _mix(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finalizer of SplitMix64."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
