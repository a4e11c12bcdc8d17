"""Every strategy with every loss, each divided by what counts in the whole batch."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from nn import Batch, Model, mlp
from nn.layers import Conv2d, Tanh
from nn.loss import BinaryCrossEntropy, CrossEntropy, Loss, MeanSquaredError
from nn.torch import TorchModel
from strategies import Hogwild, LocalSGD, Sequential
from strategies.base import Refused
from tests.support.exact import EXACT, OF_OWN_LOSS
from tests.support.optimizers import momentum
from tests.support.oracles import STEP_TOLERANCE, assert_trains_like

ALL = {**EXACT, **OF_OWN_LOSS}
CLASSES = 4
SIZES = (8, 7, 5, 8)


def labels(rng: Any, rows: int) -> Any:
    return rng.integers(0, CLASSES, rows)


def mostly_padding(rng: Any, rows: int) -> Any:
    """Labels of which the last three count: some ranks have none, and others more or fewer."""
    found = np.full(rows, -100)
    found[-3:] = rng.integers(0, CLASSES, 3)
    return found


def pixels(rng: Any, rows: int) -> Any:
    found = rng.integers(0, CLASSES, (rows, 5, 5))
    found[: rows // 2] = -100
    return found


def numbers(rng: Any, rows: int) -> Any:
    return rng.standard_normal((rows, CLASSES))


def several(rng: Any, rows: int) -> Any:
    return rng.integers(0, 2, (rows, CLASSES))


KINDS: dict[str, tuple[Callable[[], Loss], Callable]] = {
    "smoothed": (lambda: CrossEntropy(label_smoothing=0.1), labels),
    "class weights": (lambda: CrossEntropy(class_weights=[0.1, 3, 0, 1]), labels),
    "padding": (lambda: CrossEntropy(ignore_index=-100), mostly_padding),
    "all of them": (lambda: CrossEntropy(0.2, [0.1, 3, 0.5, 1], -100), mostly_padding),
    "pixels": (lambda: CrossEntropy(ignore_index=-100), pixels),
    "squares": (MeanSquaredError, numbers),
    "several labels": (BinaryCrossEntropy, several),
}
"""Losses, a new one for each model: a batch remembers what it counted for one."""


def net(kind: str) -> Model:
    loss = KINDS[kind][0]()
    if kind == "pixels":
        layers = [Conv2d(1, 3, 3, padding=1), Tanh(), Conv2d(3, CLASSES, 3, padding=1), Tanh()]
        return Model(layers, "float64", input_shape=(1, 5, 5), loss=loss)
    return mlp([6, 8, 7, CLASSES], "tanh", dtype="float64", loss=loss)


def batches(kind: str, sizes: tuple[int, ...], weighted: bool = False) -> list[Batch]:
    rng = np.random.default_rng(5)
    shape = net(kind).input_shape
    return [
        Batch(
            rng.standard_normal((n, *shape)),
            KINDS[kind][1](rng, n),
            weights=rng.random(n) if weighted else None,
        )
        for n in sizes
    ]


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted rows"])
def test_every_strategy_trains_with_every_loss(comm, name, kind, weighted):
    """Fails if a rank divides by what counts in its own rows: a mean of means."""
    oracle = Sequential(net(kind), momentum())
    try:
        strategy = ALL[name](net(kind), momentum(), comm)
    except Refused as refusal:
        pytest.skip(str(refusal))
    own_loss = name in OF_OWN_LOSS
    assert_trains_like(
        oracle, strategy, batches(kind, SIZES, weighted), comm, STEP_TOLERANCE, own_loss
    )
    strategy.close()


@pytest.mark.parametrize("name", ALL)
def test_a_batch_in_which_nothing_counts_moves_nothing(comm, name):
    """The momentum goes on, as in plain training on a gradient of 0."""
    oracle = Sequential(net("padding"), momentum())
    strategy = ALL[name](net("padding"), momentum(), comm)
    first, second = batches("padding", (8, 8))
    nothing = Batch(second.x, np.full(8, -100))
    for batch in (first, nothing, second):
        expected, loss = oracle.step(batch), strategy.step(batch)
        assert name in OF_OWN_LOSS or loss == pytest.approx(expected, rel=1e-12)
    np.testing.assert_allclose(strategy.weights(), oracle.weights(), rtol=0, atol=1e-12)
    strategy.close()


@pytest.mark.workers(2, 3, 4)
def test_a_rank_of_hogwild_without_anything_that_counts_makes_no_update(comm):
    (batch,) = batches("padding", (8,))
    strategy = Hogwild(net("padding"), momentum(), comm)
    own = batch.shard(comm.rank, comm.size).y
    assert np.isnan(strategy.step(batch)) == (own == -100).all()
    strategy.weights()
    assert strategy.updates == comm.allreduce(int((own != -100).any()))
    strategy.close()


@pytest.mark.parametrize("make", [LocalSGD, Hogwild])
@pytest.mark.parametrize("known", [True, False], ids=["a module", "a function"])
def test_ranks_that_step_on_their_own_refuse_a_sum(comm, make, known):
    """The average of steps on sums is no step on the sum of all rows."""

    def summed(outputs, targets):
        return torch.nn.functional.cross_entropy(outputs, targets, reduction="none").sum()

    loss = torch.nn.CrossEntropyLoss(reduction="sum") if known else summed
    layers = [torch.nn.Linear(6, CLASSES)]
    model = TorchModel(layers, dtype="float64", seed=0, loss=loss)
    batch = Batch(np.ones((8, 6)), np.arange(8) % CLASSES)
    with pytest.raises(Refused, match="the loss is a sum over rows"):
        make(model, momentum(), comm).step(batch)
