"""The report of two trainings that differ names the step, the part, the place and the ranks."""

import re
from functools import partial

import numpy as np
import pytest

from nn import SGD, Model, mlp
from nn.layers import Linear, Tanh
from strategies import DataParallel, Pipeline, Sequential, TensorParallel, ZeRO
from tests.support.oracles import assert_trains_like, random_batches

pytestmark = pytest.mark.workers(2, 3)


def net():
    return mlp([5, 6, 4, 3], activation="tanh", dtype="float64", seed=1)


def report(strategy, comm, oracle=None, rows=7):
    """Return where the report says that training differs; it is the same on every rank."""
    oracle = oracle or Sequential(net(), SGD(0.1, momentum=0.9))
    with pytest.raises(AssertionError) as failure:
        assert_trains_like(oracle, strategy, random_batches(oracle.model, rows), comm)
    strategy.close()
    assert len(set(comm.allgather(str(failure.value)))) == 1
    where = str(failure.value).splitlines()[-1]
    assert where.startswith("where first: step "), str(failure.value)
    return where


def explained(where):
    """Return what the report says of rounding, as a fraction of the difference."""
    size, rounding = re.search(r"by (\S+) \(rounding explains (\S+)\)", where).groups()
    return float(rounding) / float(size)


class ScaledShard(DataParallel):
    """Rank 1's gradient of the second layer is too large."""

    factor = 1 + 1e-6

    def gradients(self, batch):
        loss = super().gradients(batch)
        if self.comm.rank == 1:
            lo, hi = self.model.offsets[2:4]
            self.model.grads[lo:hi] *= self.factor
        return loss


def test_gradient_of_one_rank(comm):
    where = report(ScaledShard(net(), SGD(0.1, momentum=0.9), comm), comm)
    assert "step 0, gradient, layer 2 (Linear(6, 4)), parameter 2." in where
    assert f": rank 1 of {comm.size} differs by" in where
    assert explained(where) < 1e-5


class DroppedLayer(DataParallel):
    """The last layer's bias is summed on no rank."""

    def reduce(self, loss):
        own = self.model.grads[-3:].copy()
        loss = super().reduce(loss)
        self.model.grads[-3:] = own
        return loss


def test_sum_that_is_left_out(comm):
    where = report(DroppedLayer(net(), SGD(0.1, momentum=0.9), comm), comm)
    ranks = ", ".join(map(str, range(comm.size)))
    assert "step 0, reduced gradient, layer 4 (Linear(4, 3)), parameter 4.bias" in where
    assert f": ranks {ranks} of {comm.size} differ by" in where


class SkippedUpdate(DataParallel):
    """Rank 1 takes no second step."""

    def update(self):
        if self.comm.rank != 1 or self.optimizer.steps != 1:
            super().update()
        else:
            self.optimizer.steps += 1


def test_update_of_one_rank(comm):
    where = report(SkippedUpdate(net(), SGD(0.1, momentum=0.9), comm), comm)
    assert "step 1, update, layer" in where
    assert f": rank 1 of {comm.size} differs by" in where


@pytest.mark.parametrize("strategy", [DataParallel, ZeRO, TensorParallel, Pipeline])
def test_another_learning_rate(comm, strategy):
    where = report(strategy(net(), SGD(0.1001, momentum=0.9), comm), comm)
    assert "step 0, update, layer" in where


class Bent(Tanh):
    """An activation that is wrong on one rank."""

    def __init__(self, wrong):
        self._wrong = wrong  # a setting, which ranks compare, would be refused

    def forward(self, x):
        y, ctx = super().forward(x)
        return (y * (1 + 1e-7) if self._wrong else y), ctx


def bent(wrong):
    layers = [Linear(5, 6), Bent(False), Linear(6, 4), Bent(wrong), Linear(4, 3)]
    return Model(layers, "float64", seed=1)


@pytest.mark.parametrize("make", [DataParallel, partial(ZeRO, stage=3)])
def test_forward_of_one_rank(comm, make):
    strategy = make(bent(comm.rank == 1), SGD(0.1), comm)
    where = report(strategy, comm, Sequential(bent(False), SGD(0.1)))
    assert f"step 0, forward, layer 3 (Bent()): rank 1 of {comm.size} differs by" in where


def test_forward_of_a_micro_batch(comm):
    strategy = Pipeline(bent(True), SGD(0.1), comm, micro_batches=3)
    where = report(strategy, comm, Sequential(bent(False), SGD(0.1)))
    assert "step 0, forward, layer 3 (Bent()), micro-batch 0: rank" in where


def test_slice_of_a_sharded_gradient(comm):
    class Wrong(ZeRO):
        def reduce(self, loss):
            loss = super().reduce(loss)
            if self.comm.rank == 1:
                self.model.grads[0] += 1e-6
            return loss

    where = report(Wrong(net(), SGD(0.1, momentum=0.9), comm), comm)
    assert "step 0, reduced gradient, layer" in where
    assert f": rank 1 of {comm.size} differs by 1.0e-06" in where


def test_part_of_a_split_gradient(comm):
    class Wrong(Pipeline):
        def gradients(self, batch):
            loss = super().gradients(batch)
            if self.comm.rank == 1:
                self.model.grads[0] += 1e-6
            return loss

    where = report(Wrong(net(), SGD(0.1, momentum=0.9), comm), comm)
    assert "step 0, gradient, layer" in where
    assert f": rank 1 of {comm.size} differs by 1.0e-06" in where


def test_an_error_of_the_repetition_hides_nothing(comm):
    class Once(ScaledShard):
        def load_state(self, state):
            raise ValueError("cannot go back")

    oracle, strategy = Sequential(net(), SGD(0.1)), Once(net(), SGD(0.1), comm)
    batches = random_batches(oracle.model, 7)
    with pytest.raises(AssertionError) as failure:
        assert_trains_like(oracle, strategy, batches, comm)
    first, *_, last = str(failure.value).splitlines()
    assert re.match(r"step 0: rank 0: weights differ by .* of the largest", first)
    assert last == (
        "where first: unknown, since the repetition failed: ValueError('cannot go back')"
    )


def test_a_nan_is_reported_like_any_other_difference(comm):
    class Nan(ScaledShard):
        factor = np.nan

    where = report(Nan(net(), SGD(0.1, momentum=0.9), comm), comm)
    assert "step 0, gradient, layer 2" in where
