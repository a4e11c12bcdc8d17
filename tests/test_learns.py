"""It learns, and in parallel as well as sequentially."""

from functools import partial

import numpy as np
import pytest
from mpi4py import MPI

from nn import SGD, Adam, cnn, data, mlp, schedules
from strategies import DataParallel, Sequential, SharedDataParallel
from tests.oracles import MatchedOrder

ROWS = 10_000
TEST_ROWS = 1_666


def accuracy_after(make, model, optimizer, epochs, batch_size, lr, comm):
    """Train on digits with a cosine schedule; returns the share of test rows that are right."""
    digits = data.load("digits", size=ROWS)
    steps = epochs * digits.steps_per_epoch(batch_size)
    strategy = make(model, optimizer(schedules.cosine(lr, steps)), comm)
    for batch in digits.batches(batch_size, epochs=epochs, seed=1):
        strategy.step(batch)
    strategy.close()
    return float(np.mean(model.predict(digits.x_test) == digits.y_test))


def mlp_accuracy(make, comm):
    model, optimizer = mlp([784, 256, 128, 10], seed=1), partial(SGD, momentum=0.9)
    return accuracy_after(make, model, optimizer, 6, 64, 0.03, comm)


def cnn_accuracy(make, comm):
    return accuracy_after(make, cnn(seed=1), Adam, 2, 64, 0.002, comm)


@pytest.mark.deadline(120)
def test_the_mlp_learns_digits_to_95_percent(world):
    parallel = mlp_accuracy(DataParallel, world)
    assert parallel >= 0.95
    # Seven orders of adding, of 1 to 7 shards, gave the same class to every test image.
    if world.rank == 0:
        sequential = mlp_accuracy(Sequential, MPI.COMM_SELF)
        assert parallel == pytest.approx(sequential, abs=1.5 / TEST_ROWS)


@pytest.mark.deadline(240)
def test_the_cnn_learns_digits_to_97_and_a_half_percent(world):
    """Pooling and ReLU make of the last bit another net: seven orders of adding, of 1 to 7 shards,
    got 1633 to 1637 of the test images right. So the order of the oracle is that of the ranks, and
    the strategy is one that keeps to it. (MPI sums more than two ranks as it likes.)
    """
    parallel = cnn_accuracy(SharedDataParallel, world)
    assert parallel >= 0.975
    if world.rank == 0:
        sequential = cnn_accuracy(lambda *parts: MatchedOrder(*parts[:2], world.size), None)
        assert parallel == sequential
