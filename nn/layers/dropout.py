"""Dropout masks that do not depend on how a batch is split over ranks and micro-batches."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np
from numpy.typing import NDArray

from nn.batch import Batch

_forward: ContextVar[tuple[Batch, Counter] | None] = ContextVar("forward", default=None)
"""The rows whose forward runs, and how often it has drawn masks of each key."""


@contextmanager
def rows_of(batch: Batch) -> Iterator[None]:
    """While forwards of the rows that `batch` holds run: masks belong to these rows.

    A row is known by its place in the data (`Batch.row_ids`), which neither splitting the batch nor
    reading it ahead changes.
    """
    token = _forward.set((batch, Counter()))
    try:
        yield
    finally:
        _forward.reset(token)


def mask(p: float, key: tuple[int, ...], units: int) -> NDArray[np.bool_]:
    """Which units are kept, (rows, units), each with probability 1 - p.

    A hash of key, row and unit: counters taken through the finalizer of SplitMix64 (Steele, Lea,
    Flood, "Fast splittable pseudorandom number generators", 2014, figure 14). A layer that is used
    twice in one forward has another mask the second time.

    Args:
        p: probability of dropping, 0 <= p < 1.
        key: numbers such as seed, layer and step, all of which matter.

    Raises:
        ValueError: no rows are known: the forward is not within `rows_of`.
    """
    forward = _forward.get()
    if forward is None:
        raise ValueError("dropout in training outside of rows_of(batch): whose masks are they?")
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
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
