"""The grid's own cells: what is trained, on which rows, and that each is checked for what it is."""

from types import SimpleNamespace

import numpy as np
import pytest

from bench.core import grid
from bench.core.cell import Case, Cell
from bench.core.check import CHECK_TOLERANCE, WrongTraining, equals_sequential, uneven_rows
from bench.core.race import measure
from bench.test_user_code import trained as case_of_user_code
from bench.user_code.nets import Net
from strategies.catalog import Entry, added, select
from tests.examples.mean_of_means import MeanOfMeans
from tests.support.wrong_strategies import Lazy, Unreduced

LITTLE = 1000
"""Rows of the data set."""


def cell(strategy="DataParallel", workers=1, batch=64, model="mlp"):
    return Cell(strategy, model, workers, batch, LITTLE)


@pytest.mark.workers(2)
@pytest.mark.parametrize("wrong", [Unreduced, MeanOfMeans, Lazy])
def test_a_wrong_strategy_in_the_catalog_is_not_measured(comm, wrong):
    """A mean of means is right in two of three batches, and slightly wrong in the third."""
    with added(Entry("Wrong", wrong)), pytest.raises(WrongTraining, match="differ from") as raised:
        measure(grid.case(cell("Wrong", comm.size)), comm)
    assert raised.value.cell == cell("Wrong", comm.size)
    assert raised.value.check.error > 10 * CHECK_TOLERANCE["float32"]
    if wrong is MeanOfMeans:
        assert raised.value.check.error < 0.2, "as wrong as a tolerance would have to be"


@pytest.mark.workers(2)
def test_a_users_own_wrong_strategy_is_not_measured(comm):
    net = Net("mlp", lambda dtype: grid.model("mlp", "cpu"))
    with pytest.raises(WrongTraining, match="differ from"):
        measure(case_of_user_code(cell("Wrong", comm.size), MeanOfMeans, net), comm)


@pytest.mark.workers(1)
def test_each_strategy_is_checked_for_what_the_catalog_says(comm):
    for name, entry in select("grid").items():
        case = grid.case(cell(name, 2))
        if entry.exact:
            assert case.check is equals_sequential, name
        else:
            check = case.check(None, None, case.check_batches, comm)
            assert (check.error, check.problem, check.note) == (None, "", entry.inexact), name
        assert case.runs_silent is entry.runs_silent, name
    plain = grid.case(cell())
    by_default = Case(plain.cell, plain.build, plain.sequential, [], [])
    assert (by_default.check, by_default.runs_silent) == (equals_sequential, True)


@pytest.mark.workers(1)
@pytest.mark.parametrize("batch", [1, 64, 256])
def test_batches_are_full_and_all_different_and_a_checked_one_is_of_other_rows(batch):
    case = grid.case(cell(batch=batch))
    assert [b.global_count for b in case.batches] == [batch] * (LITTLE // batch)
    rows = np.concatenate([b.x.reshape(batch, -1) for b in case.batches])
    assert rows.dtype == np.float32
    assert len(np.unique(rows, axis=0)) > 0.9 * len(rows)
    *same, uneven = case.check_batches
    assert same == list(case.batches[:2])
    assert uneven.global_count == min(3, batch)
    first = case.batches[0].x[: uneven.global_count]
    assert batch == 1 or not np.array_equal(uneven.x, first)


@pytest.mark.workers(1)
@pytest.mark.parametrize("ranks", [2, 3, 4, 7])
@pytest.mark.parametrize("batch", [1, 2, 3, 4, 5, 6, 7, 8, 14, 64, 1024])
def test_a_checked_batch_has_uneven_shards_and_is_small(ranks, batch):
    rows = uneven_rows(ranks, batch)
    assert rows % ranks
    assert 1 <= rows <= batch
    assert rows <= 2 * ranks + 1
    assert rows > 2 * ranks or batch <= 2 * ranks
    assert uneven_rows(1, batch) == min(3, batch)


@pytest.mark.workers(1)
def test_both_arms_train_the_same_net_with_an_optimizer_of_their_own(comm):
    case = grid.case(cell())
    parallel, sequential, another = case.build(comm), case.sequential(), case.sequential()
    assert parallel.weights().dtype == np.float32
    np.testing.assert_array_equal(parallel.weights(), sequential.weights())
    before = another.weights()
    parallel.step(case.batches[0])
    sequential.step(case.batches[0])
    np.testing.assert_array_equal(another.weights(), before)
    np.testing.assert_array_equal(parallel.weights(), sequential.weights())
    assert parallel.optimizer is not sequential.optimizer
    for strategy in (parallel, sequential):
        assert (strategy.optimizer.lr, strategy.optimizer.momentum) == (0.01, 0.9)
    assert len(before) == 784 * 256 + 256 + 256 * 128 + 128 + 128 * 10 + 10


@pytest.mark.workers(1)
@pytest.mark.parametrize(
    ("ranks", "counts"),
    [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (4, [1, 2, 4]), (6, [1, 2, 4, 6]), (8, [1, 2, 4, 8])],
)
def test_worker_counts_double_up_to_all_ranks(monkeypatch, ranks, counts):
    world = SimpleNamespace(COMM_WORLD=SimpleNamespace(size=ranks))
    monkeypatch.setattr(grid, "MPI", world)
    assert grid.worker_counts() == counts


@pytest.mark.workers(1)
@pytest.mark.parametrize(("strategy", "model"), [("Nobody", "mlp"), ("DataParallel", "nothing")])
def test_an_unknown_name_is_refused(strategy, model):
    with pytest.raises(ValueError, match="expected one of"):
        grid.case(cell(strategy, model=model))
