"""Dropout drops the same units of a row, however a batch is split."""

from copy import copy
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn as tnn

from nn import SGD, Batch
from nn.layers.dropout import mask, rows_of
from nn.torch.model import TorchModel
from strategies import DataParallel, Hybrid, ParameterServer, Sequential
from tests.support.exact import EXACT
from tests.support.oracles import Recorded, assert_trains_like

torch.set_num_threads(1)


class Block(tnn.Module):
    """A layer with dropout inside."""

    def __init__(self):
        super().__init__()
        self.f = tnn.Sequential(tnn.Linear(6, 6), tnn.Dropout(0.5))

    def forward(self, x):
        return x + self.f(x)


def build(strategy, comm=None, seed=1):
    """A strategy whose optimizer is the clock of its model's dropout."""
    optimizer = SGD(0.1, momentum=0.9)
    dropout = tnn.Dropout(0.3)  # one object in two places: two different masks
    layers = [
        *(tnn.Linear(5, 6), tnn.ReLU(), dropout, Block()),
        *(tnn.Linear(6, 6), tnn.Tanh(), dropout, tnn.Linear(6, 3)),
    ]
    model = TorchModel(layers, dtype="float64", seed=seed, clock=optimizer)
    return strategy(model, optimizer, *([comm] if comm else []))


def shuffled(rows, steps):
    """Batches of rows of one data set in a random order, each row once."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((rows * steps, 5)), rng.integers(0, 3, rows * steps)
    return [Batch(x, y, index) for index in rng.permutation(rows * steps).reshape(steps, rows)]


def batch_of(rows):
    return Batch(np.empty((rows, 1)), np.zeros(rows, np.intp))


@cache
def trained():
    return Recorded(build(Sequential), shuffled(7, 4))


@pytest.mark.parametrize("strategy", [*EXACT, "copies_and_micro_batches"])
def test_equals_sequential(comm, strategy):
    """7 rows make uneven shards, and uneven micro-batches in pipelines."""
    make = EXACT.get(strategy, lambda *a: Hybrid(*a, data=a[-1].size, micro_batches=2))
    parallel, oracle = build(make, comm), trained()
    assert_trains_like(copy(oracle), parallel, oracle.batches, comm)
    parallel.close()


def test_a_resumed_run_draws_the_masks_of_the_next_step(comm):
    batches = shuffled(8, 4)
    one, other = build(DataParallel, comm), build(DataParallel, comm)
    for batch in batches[:2]:
        one.step(batch)
    other.load_state(one.state())
    for batch in batches[2:]:
        one.step(batch)
        other.step(batch)
    np.testing.assert_array_equal(one.weights(), other.weights())


@pytest.mark.workers(1)
def test_masks_are_of_seed_layer_step_row_and_unit():
    def draw(key, batch):
        with rows_of(batch):
            return mask(0.3, key, 50)

    whole = draw((1, 2, 3), batch_of(400))
    assert whole.shape == (400, 50)
    assert abs(whole.mean() - 0.7) < 4 * np.sqrt(0.21 / whole.size)
    parts = [draw((1, 2, 3), batch_of(400).shard(k, 7)) for k in range(7)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    independent = 2 * 0.3 * 0.7
    for other in (
        *(draw(key, batch_of(400)) for key in ((0, 2, 3), (1, 3, 3), (1, 2, 4), (2, 1, 3))),
        np.roll(whole, 1, axis=0),
        np.roll(whole, 1, axis=1),
    ):
        assert abs((whole != other).mean() - independent) < 5 * np.sqrt(0.25 / whole.size)


@pytest.mark.workers(1)
def test_keeps_the_mean_and_does_nothing_in_evaluation():
    model = TorchModel([tnn.Dropout(0.25)], dtype="float64", input_shape=(1000,), clock=SGD(0.1))
    x = np.ones((40, 1000))
    with rows_of(batch_of(40)):
        y, _ = model.forward(x)
    assert set(np.unique(y)) == {0, 1 / 0.75}
    assert abs(y.mean() - 1) < 0.02
    model.layers[0].module.p = 1
    with rows_of(batch_of(40)):
        np.testing.assert_array_equal(model.forward(x)[0], np.zeros((40, 1000)))
    for rows in range(1, 4):
        np.testing.assert_array_equal(model.predict(x, rows), np.zeros(40))


@pytest.mark.workers(1)
def test_every_layer_and_every_step_draws_anew():
    dropout, optimizer = tnn.Dropout(0.5), SGD(0.1)
    model = TorchModel(
        [dropout, dropout], dtype="float64", input_shape=(1000,), clock=optimizer, seed=3
    )
    kept = []
    for optimizer.steps in range(3):
        with rows_of(batch_of(1)):
            kept.append(model.forward(np.ones((1, 1000)))[0] > 0)
    for a, b in pairwise(kept):
        assert 0.1 < (a & b).mean() * 4 < 0.5  # both layers, both times: 1/16
    assert abs(np.mean(kept) - 0.25) < 0.05


class Twice(tnn.Module):
    """A layer that uses one dropout twice."""

    def __init__(self):
        super().__init__()
        self.drop = tnn.Dropout(0.5)

    def forward(self, x):
        return self.drop(self.drop(x))


@pytest.mark.workers(1)
def test_one_object_in_several_places_has_a_mask_for_each():
    """Places: a Sequential, a module that stands in it twice, a module that uses dropout twice."""
    drop, part = tnn.Dropout(0.5), Twice()
    optimizer, x = SGD(0.1), np.ones((1, 4000))
    for layers, masks in (
        ([drop, tnn.ReLU(), drop], 2),
        ([part], 2),
        ([part, tnn.ReLU(), part], 4),
    ):
        net = tnn.Sequential(*layers)
        model = TorchModel(net, dtype="float64", input_shape=(4000,), clock=optimizer)
        with rows_of(batch_of(1)):
            together, _ = model.forward(x)
        assert (together > 0).mean() == pytest.approx(0.5**masks, rel=0.3)
        y = x
        for layer in model.layers:  # by layer, as stages do
            with rows_of(batch_of(1)):
                y, _ = layer.forward(y)
        np.testing.assert_array_equal(y, together)


@pytest.mark.workers(1)
def test_a_strategy_says_who_counts_the_steps():
    model, optimizer = TorchModel([tnn.Dropout(0.5), tnn.Linear(3, 2)], input_shape=(3,)), SGD(0.1)
    Sequential(model, optimizer).step(Batch(np.ones((2, 3)), np.zeros(2, int)))
    assert model.clock is None
    assert model.dropout_clock.current is optimizer


@pytest.mark.workers(1)
def test_the_strategy_that_steps_counts_unless_a_clock_was_given(comm):
    """The optimizer of a strategy that was refused or is closed has no effect on the masks."""
    batch = Batch(np.ones((5, 4)), np.arange(5) % 3)
    for given in (None, SGD(0.1)):
        model = TorchModel([tnn.Dropout(0.5), tnn.Linear(4, 3)], input_shape=(4,), clock=given)
        first = Sequential(model, SGD(0.1))
        first.step(batch)
        first.close()
        second = Sequential(model, SGD(0.0))
        with pytest.raises(ValueError, match="staleness"):
            ParameterServer(model, SGD(0.0), comm, staleness=-1)
        losses = {second.step(batch) for _ in range(4)}
        assert model.clock is given
        assert len(losses) == (1 if given else 4)


@pytest.mark.workers(1)
def test_modules_of_a_model_make_another():
    """The new model has its own dropout: another clock, and another seed if one is given."""
    batch = shuffled(8, 1)[0]
    first = build(Sequential)
    first.step(batch)

    def gradient(model, steps):
        model.clock = SGD(0.1)
        model.clock.steps = steps
        model.gradients(batch)
        return model.grads.copy()

    again, other = (TorchModel(first.model.module, seed=s, params=first.weights()) for s in (1, 2))
    expected = gradient(again, 0)
    np.testing.assert_array_equal(gradient(again, 0), expected)
    assert not np.array_equal(gradient(again, 1), expected)
    assert not np.array_equal(gradient(other, 0), expected)


@pytest.mark.workers(1)
def test_hooks_and_subclasses_of_dropout_do_what_they_say():
    """Of a changed dropout, the change holds and the mask is the one without it."""

    class Shifted(tnn.Dropout):
        def forward(self, x):
            return super().forward(x) + 1

    hooked = tnn.Dropout(0.5)
    hooked.register_forward_hook(lambda module, inputs, output: output + 1)
    x, made = np.ones((3, 40)), []
    for module in (tnn.Dropout(0.5), hooked, Shifted(0.5)):
        model = TorchModel([module], dtype="float64", input_shape=(40,), clock=SGD(0.1))
        with rows_of(batch_of(3)):
            made.append(model.forward(x)[0])
    assert set(np.unique(made[0])) == {0, 2}
    np.testing.assert_array_equal(made[1], made[0] + 1)
    np.testing.assert_array_equal(made[2], made[0] + 1)


@pytest.mark.workers(1)
def test_says_what_it_needs():
    model = TorchModel([tnn.Dropout(0.5), tnn.Linear(3, 2)], input_shape=(3,))
    batch = Batch(np.ones((2, 3)), np.zeros(2, int))
    with pytest.raises(ValueError, match="clock=optimizer"):
        model.gradients(batch)
    model.clock = SGD(0.1)
    model.gradients(batch)
    with pytest.raises(ValueError, match="outside of rows_of"):
        model.forward(np.ones((2, 3)))
    with (
        rows_of(batch_of(3)),
        pytest.raises(
            ValueError, match=r"dropout of 2 rows, where the batch has 3: .* in the first"
        ),
    ):
        model.forward(np.ones((2, 3)))
