"""Batches read ahead are the same batches, and the threads that read them end."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.nn import Dropout, Linear

from nn import SGD, Batch
from nn.data.prefetch import prefetch
from nn.sequences import Sequences
from nn.torch.model import TorchModel
from strategies import DataParallel, LocalSGD, Pipeline, Sequential, TensorParallel
from tests.nn.data.samples import numbered
from tests.support.oracles import STEP_TOLERANCE

pytestmark = pytest.mark.workers(1)  # little here depends on the number of ranks


def threads() -> int:
    return sum(thread.name.startswith("prefetch") for thread in threading.enumerate())


class Reads(np.ndarray):
    """Rows that record which thread reads them, or raise when they are read."""

    readers: list[str]
    fails_at = -1

    def __getitem__(self, key: Any) -> Any:
        if self.fails_at in np.atleast_1d(key):
            raise OSError("the disk has gone")
        self.readers.append(threading.current_thread().name)
        return np.asarray(self)[key]


def watched(rows: int, fails_at: int = -1) -> tuple[Reads, np.ndarray]:
    x = np.arange(rows, dtype=np.float32)[:, None].view(Reads)
    x.readers, x.fails_at = [], fails_at
    return x, np.arange(rows)


@pytest.mark.parametrize("part", [(0, 1), (0, 2), (2, 3)])
@pytest.mark.parametrize(("ahead", "readers"), [(1, 1), (2, 3), (50, 2)])
def test_the_same_batches_in_the_same_order(
    ahead: int, readers: int, part: tuple[int, int]
) -> None:
    data = numbered(23)
    plain = list(data.batches(4, epochs=2, seed=3))
    ready = list(prefetch(data.batches(4, epochs=2, seed=3), ahead, readers, part))
    assert len(ready) == len(plain)
    for a, b in zip(plain, ready):
        assert (len(a), a.global_count, a.ends_epoch) == (len(b), b.global_count, b.ends_epoch)
        for k, n in [(0, 1), (1, 2), part]:
            one, other = a.shard(k, n), b.shard(k, n)
            assert (len(one), one.global_count) == (len(other), other.global_count)
            np.testing.assert_array_equal(one.x, other.x)
            np.testing.assert_array_equal(one.y, other.y)
            np.testing.assert_array_equal(one.row_ids, other.row_ids)
        np.testing.assert_array_equal(a.x, b.x)
        np.testing.assert_array_equal(a.y, b.y)


def test_a_set_prefetches_by_one_argument() -> None:
    data = numbered(23)
    ready = [list(batch.y) for batch in data.batches(4, start=2, prefetch=2)]
    assert ready == [list(batch.y) for batch in data.batches(4, start=2)]


@pytest.mark.parametrize("part", [(0, 1), (1, 2)])
def test_rows_are_read_ahead_and_by_threads_alone(part: tuple[int, int]) -> None:
    x, y = watched(24)
    lazy = [Batch(x, y, index=np.arange(i, i + 6)) for i in range(0, 24, 6)]
    batches = prefetch(lazy, ahead=2, part=part)
    first = next(batches)
    for _ in range(1000):
        if len(x.readers) == 3:
            break
        threading.Event().wait(0.01)
    assert len(x.readers) == 3, "one in hand and two ahead"
    for batch in (first, *batches):
        shard = batch.shard(*part)
        assert isinstance(shard.x, np.ndarray)
        assert len(shard.shard(0, 2).x) == -(-len(shard) // 2)
    assert len(x.readers) == 4
    assert all(name.startswith("prefetch") for name in x.readers)


def test_no_row_of_others_is_read() -> None:
    x, y = watched(8, fails_at=0)
    batches = prefetch([Batch(x, y, index=np.arange(8))], part=(1, 2))
    np.testing.assert_array_equal(next(batches).shard(1, 2).y, [4, 5, 6, 7])


class Counted(Reads):
    """Rows that record which were read."""

    def __getitem__(self, key: Any) -> Any:
        rows = super().__getitem__(key)
        self.readers.extend(str(int(row)) for row in np.ravel(rows))
        return rows


@pytest.mark.parametrize("part", [(0, 1), (0, 3), (2, 3)])
def test_a_set_reads_ahead_the_rows_of_the_part_alone(part: tuple[int, int]) -> None:
    plain = numbered(23)
    x = plain.x.view(Counted)
    x.readers = []
    dataset = replace(plain, x=x)
    list(dataset.batches(4, seed=3, prefetch=2, part=part))
    own = [str(row) for b in plain.batches(4, seed=3) for row in b.shard(*part).y]
    assert [row for row in x.readers if not row.startswith("prefetch")] == own


def test_rows_of_a_map_that_are_neighbours_are_read_too(tmp_path: Path) -> None:
    """A slice of a memory map reads nothing, so later writes to the file would show in it."""
    np.save(tmp_path / "x.npy", np.arange(6.0))
    lazy = Batch(np.load(tmp_path / "x.npy", mmap_mode="r"), np.arange(6))
    (ready,) = prefetch([lazy], part=(0, 2))
    np.load(tmp_path / "x.npy", mmap_mode="r+")[:] += 100
    np.testing.assert_array_equal(ready.shard(0, 2).x, [0, 1, 2])
    np.testing.assert_array_equal(ready.shard(1, 2).x, [103, 104, 105])


@pytest.mark.parametrize("part", [(0, 1), (1, 3), (2, 3)])
def test_batches_of_another_kind_stay_of_that_kind(part: tuple[int, int]) -> None:
    tokens = np.arange(40).reshape(8, 5)
    plain = [Sequences(tokens), Sequences(tokens, [6, 1, 3])]
    for a, b in zip(plain, prefetch(plain, part=part)):
        assert isinstance(b, Sequences)
        for k, n in [(0, 1), (1, 2), part]:
            for one, other in [(a.shard(k, n), b.shard(k, n)), (a.as_global(), b.as_global())]:
                assert (len(one), one.global_count) == (len(other), other.global_count)
                np.testing.assert_array_equal(one.x, other.x)
                np.testing.assert_array_equal(one.y, other.y)


def dropping() -> TorchModel:
    return TorchModel([Linear(4, 8), Dropout(0.5), Linear(8, 3)], dtype="float64")


@pytest.mark.workers(2)
@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("strategy", [Sequential, DataParallel, TensorParallel, Pipeline, LocalSGD])
def test_strategies_train_alike_on_what_was_read_ahead(comm, strategy, whole) -> None:
    """Rows keep the dropout masks of their numbers in the data; 7 rows make uneven shards."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((21, 4)), rng.integers(0, 3, 21)
    plain = [Batch(x, y, index) for index in rng.permutation(21).reshape(3, 7)]
    part = (0, 1) if whole else (comm.rank, comm.size)
    oracle, parallel = Sequential(dropping(), SGD(0.1)), strategy(dropping(), SGD(0.1), comm)
    start = oracle.weights()
    for batch, ready in zip(plain, prefetch(plain, part=part)):
        oracle.step(batch)
        parallel.step(ready)
    expected, weights = oracle.weights(), parallel.weights()
    assert np.abs(weights - expected).max() <= 3 * STEP_TOLERANCE
    assert np.abs(expected - start).max() > 1e-2
    parallel.close()


def test_an_error_comes_where_its_batch_would_have_come() -> None:
    x, y = watched(24, fails_at=13)
    batches = prefetch([Batch(x, y, index=np.arange(i, i + 6)) for i in range(0, 24, 6)], ahead=4)
    assert [next(batches).global_count, next(batches).global_count] == [6, 6]
    with pytest.raises(OSError, match="disk has gone"):
        next(batches)
    assert list(batches) == []
    assert not threads()


def test_an_error_of_the_source_comes_in_its_place_too() -> None:
    def source() -> Iterator[Batch]:
        yield from numbered(6).batches(3)
        raise ValueError("no more")

    batches = prefetch(source(), ahead=10)
    assert [next(batches).global_count, next(batches).global_count] == [3, 3]
    with pytest.raises(ValueError, match="no more"):
        next(batches)
    assert not threads()


@pytest.mark.parametrize("taken", [0, 1, 6])
def test_threads_end_with_the_iterator(taken: int) -> None:
    batches = numbered(23).batches(4, prefetch=2)
    for _ in range(taken):
        next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert not threads()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"ahead": 0}, ValueError, "ahead=0: expected 1 or more"),
        ({"ahead": 1.5}, TypeError, "ahead=1.5: expected a whole number"),
        ({"threads": 0}, ValueError, "threads=0: expected 1 or more"),
        ({"part": (2, 2)}, ValueError, "part: k=2: expected from 0 to 1"),
        ({"part": (0, 0)}, ValueError, "part: n=0: expected 1 or more"),
        ({"part": (0.5, 2)}, TypeError, "part: k=0.5: expected a whole number"),
        ({"part": 1}, TypeError, r"part=1: expected a pair \(k, n\)"),
    ],
)
def test_wrong_arguments_are_named_at_once(
    arguments: dict, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        prefetch([], **arguments)  # without asking for a batch
    if "part" in arguments:
        for ahead in (0, 1):
            with pytest.raises(error, match=message):
                numbered(5).batches(2, prefetch=ahead, **arguments)
