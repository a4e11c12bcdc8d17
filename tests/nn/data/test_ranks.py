"""All ranks may ask for one set at once, and each reads rows of its own."""

import os
import time

import numpy as np
import pytest
from mpi4py import MPI

from nn.data import load
from tests.nn.data.small import ROWS, fetch


@pytest.fixture
def one_cache(world: MPI.Intracomm, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let all ranks use the cache folder of rank 0."""
    monkeypatch.setenv("LOCKSTEP_CACHE", world.bcast(os.environ["LOCKSTEP_CACHE"]))


@pytest.mark.usefixtures("one_cache")
def test_one_rank_makes_the_set_while_the_others_sleep(world: MPI.Intracomm) -> None:
    made = []

    def halfway() -> None:
        made.append(world.rank)
        time.sleep(1)

    world.Barrier()
    start, cpu = time.perf_counter(), time.process_time()
    found = fetch(halfway)
    waited, worked = time.perf_counter() - start, time.process_time() - cpu
    np.testing.assert_array_equal(found["x"], ROWS)
    assert sum(map(len, world.allgather(made))) == 1
    assert waited >= 0.9
    assert worked < 0.3


@pytest.mark.usefixtures("one_cache")
def test_ranks_read_the_same_batches_and_share_their_rows(world: MPI.Intracomm) -> None:
    dataset = load("iris")
    for batch in dataset.batches(50, epochs=2):
        x, y = batch.part(world.rank, world.size)
        rows = np.concatenate(world.allgather(np.column_stack([x, y])))
        np.testing.assert_array_equal(rows, np.column_stack([batch.x, batch.y]))
