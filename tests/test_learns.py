"""It learns, and in parallel as well as sequentially."""

import numpy as np
import pytest

from nn import SGD, cnn, data, mlp, schedules
from strategies import DataParallel, Sequential, SharedDataParallel

ROWS = 10_000


def accuracy_after(make, model, epochs, batch_size, lr, comm):
    """Train on digits with a cosine schedule; returns the share of test rows that are right."""
    digits = data.load("digits", size=ROWS)
    steps = epochs * digits.steps_per_epoch(batch_size)
    strategy = make(model, SGD(schedules.cosine(lr, steps), momentum=0.9), comm)
    for batch in digits.batches(batch_size, epochs=epochs, seed=1):
        strategy.step(batch)
    strategy.close()
    return float(np.mean(model.predict(digits.x_test) == digits.y_test))


def mlp_accuracy(make, comm):
    return accuracy_after(make, mlp([784, 256, 128, 10], seed=1), 6, 64, 0.03, comm)


def cnn_accuracy(make, comm):
    return accuracy_after(make, cnn(seed=1), 3, 32, 0.02, comm)


@pytest.mark.deadline(120)
@pytest.mark.parametrize("make", [DataParallel, SharedDataParallel])
def test_the_mlp_learns_digits_to_95_percent(world, make):
    parallel = mlp_accuracy(make, world)
    assert parallel >= 0.95
    # Rounding differs, so a few test images of 1,666 may fall on the other side.
    if world.rank == 0:
        assert mlp_accuracy(Sequential, world) == pytest.approx(parallel, abs=0.01)


@pytest.mark.deadline(240)
def test_the_cnn_learns_digits_to_97_and_a_half_percent(world):
    parallel = cnn_accuracy(SharedDataParallel, world)
    assert parallel >= 0.975
    if world.rank == 0:
        assert cnn_accuracy(Sequential, world) == pytest.approx(parallel, abs=0.01)
