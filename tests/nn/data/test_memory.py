"""The memory of a rank does not grow with the rows of other ranks."""

import mmap
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from nn.data import Dataset, cache

pytestmark = pytest.mark.workers(1)  # nothing here depends on the number of ranks

COLUMNS = 64
ROW = 4 * COLUMNS + 8  # bytes, with the label


def dataset(rows: int) -> Dataset:
    """A mapped set of zeros, written in chunks."""

    def make() -> tuple[dict, cache.Arrays]:
        chunks = (np.zeros((1_000, COLUMNS), np.float32) for _ in range(rows // 1_000))
        arrays = [("x", (rows, COLUMNS), chunks), ("y", (rows,), iter([np.zeros(rows, int)]))]
        return {"classes": 1}, iter(arrays)

    found = cache.fetch("zeros", {"rows": rows}, make)
    return Dataset("zeros", **found, x_test=found["x"], y_test=found["y"])


def peak_of_a_step(rows: int, batch_size: int, parts: int) -> int:
    """Peak of bytes held, with the set open, while a rank reads its part of a batch."""
    dataset(rows)  # prepared beforehand, so that only a prepared set is opened below
    tracemalloc.start()
    try:
        mapped = dataset(rows)
        tracemalloc.reset_peak()  # opening needs more for a moment than the step does
        x, _ = next(mapped.batches(batch_size)).part(0, parts)
        assert x.shape == (batch_size // parts, COLUMNS)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_the_set_is_a_file_map(cache_folder: Path) -> None:
    base: object = dataset(1_000).x
    while isinstance(base, np.ndarray):
        base = base.base
    assert isinstance(base, mmap.mmap)


def test_memory_and_the_size_of_the_set() -> None:
    small, large = (peak_of_a_step(rows, batch_size=64, parts=2) for rows in (10_000, 50_000))
    per_row = (large - small) / 40_000
    assert per_row < 4.1  # bytes of the shuffled order; a row itself has 264


@pytest.mark.parametrize("parts", [2, 4, 8])
def test_memory_and_the_share_of_a_batch(parts: int) -> None:
    alone, shared = (peak_of_a_step(8_000, batch_size=4_096, parts=n) for n in (1, parts))
    saved = (4_096 - 4_096 // parts) * ROW
    assert alone - shared == pytest.approx(saved, rel=0.05)
