"""Steps are counted to the first look that finds the target, of full batches only."""

import math
from typing import Any

import pytest
from mpi4py import MPI

from bench.core.noise_scale import NoisyDataParallel
from bench.studies.steps_to_target import (
    ROWS_BETWEEN,
    FullBatches,
    Tuning,
    accuracy_of,
    budget,
    steps_to_target,
)
from nn import SGD
from strategies import DataParallel, Sequential
from tests.bench.studies.planted import BUILD, dataset


class Stairs:
    """An accuracy that rises by a step with every look."""

    def __init__(self, *values: float):
        self.values = [*values]
        self.looks = 0

    def __call__(self, weights) -> float:
        self.looks += 1
        return self.values[min(self.looks, len(self.values)) - 1]


def count(accuracy, allowed: int = 20, lr: float = 0.01) -> float:
    strategy = Sequential(BUILD(), SGD(lr))
    terms: Any = dict(batch_size=32, target=0.9, allowed=allowed, seed=0)
    return steps_to_target(strategy, dataset(), accuracy, **terms)


@pytest.mark.workers(1)
def test_the_first_look_that_finds_the_target_counts() -> None:
    every = ROWS_BETWEEN // 32
    assert count(Stairs(0.5, 0.9, 0.3, 0.95)) == 2 * every
    assert count(Stairs(0.95)) == every
    assert count(Stairs(0.5)) == math.inf


@pytest.mark.workers(1)
def test_a_training_ends_with_its_steps_and_where_it_has_arrived() -> None:
    stairs = Stairs(0.1)
    count(stairs, allowed=18)
    assert stairs.looks == 4  # after 4, 8, 12 and 16 steps
    stairs = Stairs(0.1, 0.95)
    count(stairs, allowed=4_000)
    assert stairs.looks <= 3


@pytest.mark.workers(1)
def test_a_training_that_diverges_never_arrives_and_ends() -> None:
    stairs = Stairs(0.1)
    assert count(stairs, allowed=4_000, lr=1e200) == math.inf
    assert stairs.looks == 0  # weights that are not finite are not judged


@pytest.mark.workers(1)
def test_every_batch_is_full() -> None:
    batches = [*FullBatches(dataset(), 7).batches(32, 9, 0, 0)]
    assert [len(batch) for batch in batches] == [32] * 7
    first, second = ({*batch.row_ids} for batch in batches[:2])
    assert not first & second
    assert {*batches[0].row_ids} != {*batches[2].row_ids}  # of another epoch


@pytest.mark.workers(1)
def test_a_budget_has_rows_for_small_batches_and_steps_for_large_ones() -> None:
    assert budget(9_000, 10, 2) == 2 * (900 + 25)
    assert budget(9_000, 4_500, 2) == 2 * (2 + 25)


@pytest.mark.workers(1)
def test_tuning_looks_at_validation_rows_and_seed_0() -> None:
    data = dataset()
    task = dict(batch_size=16, lr=0.1, momentum=0.5, allowed=400)
    found = Tuning(data, BUILD, 0.9)(task)
    assert data.x_validation is not None
    assert data.y_validation is not None
    expected = steps_to_target(
        Sequential(BUILD(seed=0), SGD(0.1, momentum=0.5)),
        data,
        accuracy_of(BUILD, data.x_validation, data.y_validation),
        batch_size=16,
        target=0.9,
        allowed=400,
        seed=0,
    )
    assert 0 < found == expected < math.inf
    assert Tuning(data, BUILD, 1.01)(task) == math.inf


@pytest.mark.workers(2)
@pytest.mark.parametrize("build", [DataParallel, NoisyDataParallel])
def test_ranks_count_the_steps_of_plain_training(comm, build) -> None:
    data = dataset()
    accuracy = accuracy_of(BUILD, data.x_test, data.y_test)
    terms: Any = dict(batch_size=15, target=0.9, allowed=400, seed=3)
    plain = steps_to_target(Sequential(BUILD(seed=3), SGD(0.004)), data, accuracy, **terms)
    strategy = build(BUILD(seed=3), SGD(0.004), comm)
    assert steps_to_target(strategy, data, accuracy, **terms) == plain
    assert 10 < plain < math.inf
    assert comm.allreduce(plain, MPI.MAX) == plain
