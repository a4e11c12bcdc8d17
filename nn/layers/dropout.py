"""Dropout masks that do not depend on how a batch is split over ranks and micro-batches."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np
from numpy.typing import NDArray

from nn.batch import Batch

_forward: ContextVar[tuple[Batch, Counter] | None] = ContextVar("forward", default=None)
"""The rows whose forward is running, and how many masks it has drawn with each key."""


@contextmanager
def rows_of(batch: Batch) -> Iterator[None]:
    """Let masks that are drawn in the `with` block belong to the rows that `batch` holds.

    A row is known by its number in the data (`Batch.row_ids`), which neither sharding the batch
    nor reading it ahead changes.
    """
    token = _forward.set((batch, Counter()))
    try:
        yield
    finally:
        _forward.reset(token)


def mask(p: float, key: tuple[int, ...], units: int) -> NDArray[np.bool_]:
    """Draw which units are kept, (rows, units), each with probability 1 - p.

    The mask is a hash of key, row and unit: counters go through the finalizer of SplitMix64
    (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014, figure 14). A layer
    that is used twice in one forward has another mask the second time.

    Args:
        p: probability of dropping a unit, 0 <= p < 1.
        key: whole numbers of 0 or more, such as seed, layer and step; each changes the mask.
        units: number of units in a row.

    Raises:
        ValueError: the forward does not run within `rows_of`, so its rows are unknown.
    """
    forward = _forward.get()
    if forward is None:
        raise ValueError(
            "dropout in training outside of rows_of(batch): expected the forward within it, since "
            "masks belong to rows"
        )
    batch, draws = forward
    state = np.zeros(1, np.uint64)
    for number in (*key, draws[key]):
        state = _mix(state + np.array([number + 1], np.uint64) * _GAMMA)
    draws[key] += 1
    state = _mix(state + batch.row_ids.astype(np.uint64) * _GAMMA)
    hashes = _mix(state[:, None] + np.arange(1, units + 1, dtype=np.uint64) * _GAMMA)
    return hashes >= np.uint64(int(p * 2**64))


_GAMMA = np.uint64(0x9E3779B97F4A7C15)


def _mix(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finalizer of SplitMix64."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
