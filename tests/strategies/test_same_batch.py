"""Ranks that are given different batches, or labels that one rank alone would see, are told so."""

import re

import numpy as np
import pytest

from nn import SGD, Batch, mlp
from strategies import Pipeline, Sequential
from strategies.base import Refused
from tests.support.exact import EXACT, OF_OWN_LOSS

ALL = {**EXACT, **OF_OWN_LOSS}
RNG = np.random.default_rng(9)
X, Y = RNG.standard_normal((64, 6)), RNG.integers(0, 4, 64)


def build():
    return mlp([6, 8, 4], dtype="float64")


def make(name, comm):
    try:
        return ALL[name](build(), SGD(0.1), comm)
    except Refused as refusal:
        pytest.skip(str(refusal))


@pytest.mark.workers(2, 3)
@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("fault", ["other rows", "more rows", "other values", "other labels"])
def test_different_batches_are_noticed_in_the_first_step(comm, name, fault):
    strategy = make(name, comm)
    odd = comm.rank == comm.size - 1
    x, y, index = X, Y, np.arange(8)
    if odd and fault == "other rows":
        index = index[::-1]
    elif odd and fault == "more rows":
        index = np.arange(9)
    elif odd and fault == "other values":
        x = X.copy()
        x[0, 0] += 1e-9
    elif odd:
        y = np.roll(Y, 1)
    with pytest.raises(ValueError, match="the ranks were given different batches"):
        strategy.step(Batch(x, y, index=index))
    strategy.close()


@pytest.mark.workers(2)
@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("fault", ["no batch", "no rows"])
def test_what_one_rank_refuses_all_refuse(comm, name, fault):
    """The other ranks do not wait for the one that was given something else."""
    strategy = make(name, comm)
    batch = Batch(X[:8], Y[:8])
    if comm.rank == 1:
        batch = X if fault == "no batch" else Batch(X[:0], Y[:0])
    with pytest.raises(
        (TypeError, ValueError), match=r"step\(\) takes an nn.Batch|a batch of 0 rows"
    ):
        strategy.step(batch)
    strategy.close()


@pytest.mark.workers(2)
@pytest.mark.parametrize("name", ALL)
def test_a_label_out_of_range_is_refused_on_every_rank(comm, name):
    """It is among the rows of the last rank, and the others would wait for it."""
    strategy = make(name, comm)
    good = Batch(X[:8], Y[:8])
    for _ in range(3):  # beyond the steps in which batches are compared
        strategy.step(good)
    wrong = Y[:8].copy()
    wrong[7] = -100
    with pytest.raises(ValueError, match=re.escape("labels from -100 to")):
        strategy.step(Batch(X[:8], wrong))
    strategy.close()


@pytest.mark.workers(2, 3, 4)
@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("rows", [(3, 5, 1, 2), (0, 6, 0, 1)])
def test_ranks_may_bring_rows_of_their_own(comm, name, rows):
    """They train as plain training does on the rows of all ranks, or the strategy refuses."""
    strategy = make(name, comm)
    ends = np.cumsum(rows[: comm.size])
    own = slice(ends[comm.rank] - rows[comm.rank], ends[comm.rank])
    oracle = Sequential(build(), SGD(0.1))
    batch = Batch.local(X[own], Y[own], comm)
    assert len(batch) == ends[-1]
    if not strategy.splits_rows:
        with pytest.raises(Refused, match="needs the whole batch on every rank"):
            strategy.step(batch)
        strategy.close()
        return
    for _ in range(3):
        losses = oracle.step(Batch(X[: ends[-1]], Y[: ends[-1]])), strategy.step(batch)
        assert name in OF_OWN_LOSS or losses[1] == pytest.approx(losses[0], rel=1e-12)
    np.testing.assert_allclose(strategy.weights(), oracle.weights(), rtol=0, atol=1e-12)
    strategy.close()


@pytest.mark.workers(2)
def test_local_rows_that_do_not_fit_are_refused_on_every_rank(comm):
    bad = Y[:3] if comm.rank else Y[:4]
    with pytest.raises(ValueError, match="the rows of rank 1: x of shape"):
        Batch.local(X[:4], bad, comm)
    with pytest.raises(ValueError, match=r"rank 1 has targets of shape .* and weights, and rank 0"):
        Batch.local(X[:4], Y[:4], comm, weights=np.ones(4) if comm.rank else None)
    local = Batch.local(X[:4], Y[:4], comm)
    with pytest.raises(ValueError, match="has its own rows only"):
        local.shard(1 - comm.rank, 2)


@pytest.mark.workers(2)
def test_a_local_batch_on_some_ranks_only_is_refused(comm):
    strategy = EXACT["DataParallel"](build(), SGD(0.1), comm)
    local = Batch.local(X[:4], Y[:4], comm)
    batch = local if comm.rank else Batch(X[:8], Y[:8])
    with pytest.raises(ValueError, match=r"some ranks were given a Batch\.local"):
        strategy.step(batch)


@pytest.mark.workers(2)
def test_lazy_rows_are_not_read_to_be_compared(comm):
    class Lazy:
        shape, dtype = X.shape, X.dtype
        ndim, read = 2, 0

        def __getitem__(self, rows):
            self.read += 1
            return X[rows]

    lazy = Lazy()
    strategy = Pipeline(build(), SGD(0.1), comm, 2)
    strategy.step(Batch(lazy, Y, index=np.arange(8)))
    assert lazy.read == (2 if comm.rank == 0 else 0)
    strategy.close()
