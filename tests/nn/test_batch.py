"""Shards hold every row once, keep the global count, and read only their own rows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nn import Batch
from nn.batch import bounds

pytestmark = pytest.mark.workers(1)


@given(total=st.integers(0, 100), n=st.integers(1, 20))
def test_bounds_cut_everything_once_and_evenly(total, n):
    parts = [bounds(k, n, total) for k in range(n)]
    assert [i for lo, hi in parts for i in range(lo, hi)] == list(range(total))
    sizes = [hi - lo for lo, hi in parts]
    assert max(sizes) - min(sizes) <= 1
    assert sizes == sorted(sizes, reverse=True)


@given(rows=st.integers(1, 30), n=st.integers(1, 6), m=st.integers(1, 6), shuffled=st.booleans())
def test_nested_shards_hold_every_row_once(rows, n, m, shuffled):
    x, y = np.arange(40.0)[:, None], np.arange(40)
    index = np.random.default_rng(rows).permutation(40)[:rows] if shuffled else np.arange(rows)
    batch = Batch(x, y, index)
    shards = [batch.shard(k, n).shard(j, m) for k in range(n) for j in range(m)]
    np.testing.assert_array_equal(np.concatenate([s.y for s in shards]), index)
    np.testing.assert_array_equal(np.concatenate([s.x for s in shards])[:, 0], index)
    np.testing.assert_array_equal(np.concatenate([s.row_ids for s in shards]), index)
    assert {s.global_count for s in shards} == {rows}
    assert sum(map(len, shards)) == rows


class Recorder:
    """A stand-in for a memory map that records which rows are read."""

    def __init__(self, array):
        self.array, self.shape, self.ndim, self.dtype = array, array.shape, array.ndim, array.dtype
        self.read = []

    def __getitem__(self, rows):
        self.read.append(rows)
        return self.array[rows]


def test_a_part_reads_its_own_rows_only_and_x_and_y_apart():
    x, y = Recorder(np.zeros((10, 3))), Recorder(np.arange(10))
    batch = Batch(x, y, np.arange(9, -1, -1))
    shard = batch.shard(1, 3)
    assert not x.read
    assert not y.read
    np.testing.assert_array_equal(shard.y, [5, 4, 3])
    assert not x.read
    assert shard.x.shape == (3, 3)
    np.testing.assert_array_equal(x.read, [[5, 4, 3]])


@pytest.mark.parametrize("index", [None, [9, 3, 4, 0, 7]])
def test_reading_a_part_changes_nothing_but_when_its_rows_are_read(index):
    x, y = Recorder(np.arange(10.0)[:, None]), Recorder(np.arange(10))
    batch = Batch(x, y, index)
    ready = batch.read(1, 3)
    assert (len(x.read), len(y.read)) == (1, 1)
    for part in (ready.shard(1, 3), ready.shard(1, 3).shard(0, 2), ready.read(1, 3).shard(1, 3)):
        assert part.x.shape == (len(part), 1)
        np.testing.assert_array_equal(part.y, part.row_ids)
    assert (len(x.read), len(y.read)) == (1, 1)
    for k in range(3):
        np.testing.assert_array_equal(ready.shard(k, 3).x, batch.shard(k, 3).x)
        np.testing.assert_array_equal(ready.shard(k, 3).row_ids, batch.shard(k, 3).row_ids)
    np.testing.assert_array_equal(ready.x, batch.x)
    assert ready.global_count == batch.global_count


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((np.zeros((3, 2)), np.zeros(2, int)), "one label per row"),
        ((np.zeros((3, 2)), np.array(["a", "b", "c"])), "y is <U1: expected whole or floating"),
        ((np.zeros((3, 2), object), np.zeros(3, int)), "x is object: expected whole or floating"),
        ((np.zeros((3, 2), complex), np.zeros(3, int)), "x is complex128: expected whole"),
        ((np.ma.masked_less(np.zeros((3, 2)), 1), np.zeros(3, int)), "x is a masked array: its m"),
        ((np.zeros((3, 2)), np.ma.masked_less(np.zeros(3, int), 1)), "y is a masked array: its m"),
        (({"a": np.zeros(3), "b": np.zeros(2)}, np.zeros(3, int)), "x\\['b'\\] of shape .*one la"),
        (((np.zeros(3), np.zeros(2)), np.zeros(3, int)), "x\\[1\\] of shape .*one label per row"),
        ((np.zeros((3, 2)), np.zeros(3, int), None, [1, 2]), "weights of shape .*each of 3 rows"),
        ((np.zeros((3, 2)), np.zeros(3, int), None, [1, 2, -1]), "of 0 or more for each of 3"),
        ((np.zeros((3, 2)), np.zeros(3, int), [3]), "from 0 to 2"),
        ((np.zeros((3, 2)), np.zeros(3, int), [-1]), "from 0 to 2"),
        ((np.zeros((3, 2)), np.zeros(3, int), [0.5]), "vector of integers"),
    ],
)
def test_bad_batches_say_what_was_expected(args, message):
    with pytest.raises(ValueError, match=message):
        Batch(*args)


@pytest.mark.parametrize(("k", "n"), [(2, 2), (-1, 2), (0, 0)])
def test_a_shard_that_does_not_exist_is_refused(k, n):
    with pytest.raises(ValueError, match="0 <= part < number of parts"):
        Batch(np.zeros((3, 2)), np.zeros(3, int)).shard(k, n)


def test_rows_alone_are_a_batch_of_their_own_and_change_no_other():
    batch = Batch(np.arange(10.0)[:, None], np.arange(10))
    shard = batch.shard(1, 3)
    own = shard.as_global()
    assert (own.global_count, len(own), shard.global_count, batch.global_count) == (3, 3, 10, 10)
    np.testing.assert_array_equal(own.y, shard.y)
    empty = batch.shard(0, 1).shard(10, 11).as_global()
    assert (empty.global_count, len(empty)) == (1, 0)
