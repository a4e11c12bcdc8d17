"""Nets learn, and in parallel as well as sequentially."""

from functools import cache, partial

import numpy as np
import pytest
from mpi4py import MPI

from nn import SGD, Adam, cnn, data, lr_schedules, mlp
from strategies import DataParallel, Sequential, SharedDataParallel, train
from tests.support.oracles import MatchedOrder

ROWS = 10_000


def accuracy_after(make, model, optimizer, epochs, batch_size, lr, comm):
    """Train on digits with a cosine schedule; returns the share of test rows that are right."""
    digits = data.load("digits", size=ROWS)
    steps = epochs * digits.steps_per_epoch(batch_size)
    strategy = make(model, optimizer(lr_schedules.cosine(lr, steps)), comm)
    train(strategy, digits, batch_size=batch_size, epochs=epochs, seed=1)
    strategy.close()
    return float(np.mean(model.predict(digits.x_test) == digits.y_test))


def mlp_accuracy(make, comm):
    """In float64: in float32 the order of adding moved two test images on one of two processors."""
    model = mlp([784, 256, 128, 10], seed=1, dtype="float64")
    return accuracy_after(make, model, partial(SGD, momentum=0.9), 6, 64, 0.03, comm)


def cnn_accuracy(make, comm):
    return accuracy_after(make, cnn(seed=1), Adam, 2, 64, 0.002, comm)


@cache
def sequential_accuracy(of_net, shards=None):
    """Accuracy of plain training; with `shards`, of plain training that adds them in rank order."""
    if shards is None:
        return of_net(Sequential, MPI.COMM_SELF)
    return of_net(lambda model, optimizer, comm: MatchedOrder(model, optimizer, shards), None)


@pytest.mark.deadline(120)
@pytest.mark.parametrize("make", [DataParallel, SharedDataParallel])
def test_the_mlp_learns_digits_to_95_percent(world, make):
    parallel = mlp_accuracy(make, world)
    assert parallel >= 0.95
    if world.rank == 0:
        assert parallel == sequential_accuracy(mlp_accuracy)


@pytest.mark.deadline(240)
def test_the_cnn_learns_digits_to_97_and_a_half_percent(world):
    """Pooling and ReLU turn a difference in the last bit into another net: adding the gradient in
    seven orders, of 1 to 7 shards, got 1633 to 1637 test images right. So the oracle adds in rank
    order, and so does the strategy. (MPI chooses the order itself for more than two ranks.)
    """
    parallel = cnn_accuracy(SharedDataParallel, world)
    assert parallel >= 0.975
    if world.rank == 0:
        assert parallel == sequential_accuracy(cnn_accuracy, world.size)
