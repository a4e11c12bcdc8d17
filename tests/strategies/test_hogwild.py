"""Hogwild is exact in a forced order, and run freely ends in an interval drawn from seeds."""

import time

import numpy as np
import pytest
from scipy import stats
from sklearn.datasets import load_digits

from nn import SGD, Adam, Batch, Model
from nn.layers import Conv2d, Flatten, Linear, MaxPool2d, ReLU
from nn.lr_schedules import linear
from nn.optim import Optimizer
from strategies import Hogwild, Sequential
from tests.support.optimizers import OPTIMIZERS
from tests.support.oracles import random_batches
from tests.support.small_nets import small_mlp


@pytest.mark.workers(1)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("lock", [False, True])
def test_one_rank_equals_sequential_to_the_bit(comm, optimizer, lock):
    make = OPTIMIZERS[optimizer]
    hogwild = Hogwild(small_mlp(), make(), comm, lock=lock)
    oracle = Sequential(small_mlp(), make())
    for batch in random_batches(hogwild.model, 7, 5):
        assert hogwild.step(batch) == oracle.step(batch)
        np.testing.assert_array_equal(hogwild.weights(), oracle.weights())
    assert np.abs(hogwild.weights() - small_mlp().params).max() > 1e-2
    assert hogwild.updates == 5
    hogwild.close()


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("rows", [13, 2])
def test_lock_step_order_equals_sequential_to_the_bit(comm, rows, sparse):
    """If ranks step one after the other, it is Sequential with the shards as batches."""
    hogwild = Hogwild(small_mlp(), SGD(0.1), comm, sparse=sparse)
    oracle = Sequential(small_mlp(), SGD(0.1))
    updates = 0
    for batch in random_batches(hogwild.model, rows, 4):
        for rank in range(comm.size):
            shard = Batch(*batch.part(rank, comm.size))
            if comm.rank == rank:
                loss = hogwild.step(batch)
                if not len(shard):
                    assert np.isnan(loss)
            if len(shard):
                oracle.step(shard)
                updates += 1
            np.testing.assert_array_equal(hogwild.weights(), oracle.weights())
    assert hogwild.updates == updates
    assert np.abs(oracle.weights() - small_mlp().params).max() > 1e-2
    hogwild.close()


def test_every_rank_keeps_an_optimizer_state_of_its_own(comm):
    hogwild = Hogwild(small_mlp(), SGD(0.1, momentum=0.9), comm)
    params = small_mlp().params
    model = small_mlp()
    optimizers = [SGD(0.1, momentum=0.9) for _ in range(comm.size)]
    for batch in random_batches(model, 9, 4):
        for rank, optimizer in enumerate(optimizers):
            if comm.rank == rank:
                hogwild.step(batch)
            model.params[:] = params
            model.gradients(Batch(*batch.part(rank, comm.size)))
            optimizer.step(params, model.grads)
            np.testing.assert_array_equal(hogwild.weights(), params)
    state = hogwild.state()
    mean = np.mean([o.state["velocity"] for o in optimizers], axis=0)
    np.testing.assert_allclose(state["optimizer.velocity"], mean, rtol=1e-12)
    hogwild.close()


class Counts:
    """A model whose gradient is -1 at the elements of one rank and 0 elsewhere."""

    offsets = (0, 8)

    def __init__(self, own=slice(None)):
        self.own = own
        self.bind(np.zeros(8), np.zeros(8))

    def bind(self, params, grads):
        self.params, self.grads = params, grads

    def gradients(self, batch, add=False, ready=None):
        self.grads[:] = 0
        self.grads[self.own] = -1
        return 0.0


class SlowSGD(Optimizer):
    """Lets other ranks write between its reading and its writing."""

    def apply(self, params, grads, lr):
        read = params.copy()
        time.sleep(0.002)
        params[:] = read - lr * grads


def count(hogwild, steps=20):
    batch = Batch(np.zeros((hogwild.comm.size, 1)), np.zeros(hogwild.comm.size, int))
    hogwild.comm.Barrier()
    for _ in range(steps):
        hogwild.step(batch)
    weights = hogwild.weights()
    assert hogwild.updates == steps * hogwild.comm.size
    hogwild.close()
    return weights


def test_with_lock_every_update_arrives(comm):
    np.testing.assert_array_equal(
        count(Hogwild(Counts(), SlowSGD(1.0), comm, lock=True)), 20 * comm.size
    )


@pytest.mark.workers(2, 3, 4)
def test_without_lock_updates_are_lost(comm):
    """Negative control: the tests around this one would notice lost updates."""
    assert count(Hogwild(Counts(), SlowSGD(1.0), comm)).max() < 20 * comm.size


@pytest.mark.parametrize("layout", ["blocks", "interleaved"])
def test_disjoint_support_loses_nothing(comm, layout):
    n, k = comm.size, comm.rank
    own = slice(k * (8 // n), (k + 1) * (8 // n)) if layout == "blocks" else slice(k, 8 // n * n, n)
    used = 8 // n * n
    weights = count(Hogwild(Counts(own), SlowSGD(1.0), comm, sparse=True))
    np.testing.assert_array_equal(weights[:used], 20)
    np.testing.assert_array_equal(weights[used:], 0)


EPOCHS, ROWS = 3, 64


def digits():
    x, y = load_digits(return_X_y=True)
    return (x / 16).astype(np.float32), y


def batches_of(seed, y_size, rows, epochs):
    rng = np.random.default_rng(seed)
    return [
        order[lo : lo + rows]
        for order in (rng.permutation(y_size) for _ in range(epochs))
        for lo in range(0, y_size - rows + 1, rows)
    ]


def small_cnn():
    """Build a net whose gradient takes 100 times as long as its update, so few updates collide.

    Ranks that write all the time lose a tenth of their updates on some machines, and learn less.
    """
    layers = [Conv2d(1, 8, 3), ReLU(), MaxPool2d(2), Flatten(), Linear(72, 10)]
    return Model(layers, seed=7, input_shape=(1, 8, 8))


def final(model, x, y):
    """Return loss and accuracy over all rows."""
    loss = model.gradients(Batch(x, y))
    return np.array([loss, np.mean(model.predict(x) == y)])


@pytest.mark.workers(2)
def test_free_running_is_as_good_as_sequential_on_as_many_samples(comm):
    """Loss and accuracy fall into the interval of plain training on the same shards.

    Plain training with 12 seeds gives the interval into which 999 of 1000 further runs of it fall
    (Student's prediction interval). Plain training with half of the samples must fall outside.

    The learning rate falls to 0. With a constant one, the last few batches decide the result, and
    ranks that the machine interrupts take them in orders that plain training never takes.
    """
    x, y = digits()
    steps = len(y) // ROWS * EPOCHS
    sequential = []
    for seed in range(12):
        model, optimizer, ends = small_cnn(), SGD(linear(0.2, steps * comm.size)), []
        for i, rows in enumerate(batches_of(seed, len(y), ROWS, EPOCHS)):
            for rank in range(comm.size):
                model.gradients(Batch(*Batch(x, y, rows).part(rank, comm.size)))
                optimizer.step(model.params, model.grads)
            if i == steps // 2:
                ends.append(final(model, x, y))
        sequential.append([*ends, final(model, x, y)])
    half, whole = np.swapaxes(sequential, 0, 1)
    mean, deviation, n = whole.mean(axis=0), whole.std(axis=0, ddof=1), len(whole)
    reach = stats.t.ppf(0.9995, n - 1) * deviation * np.sqrt(1 + 1 / n)
    assert (np.abs(half - mean) > reach).all(axis=1).all(), "the interval holds half-trained nets"

    hogwild = Hogwild(small_cnn(), SGD(linear(0.2, steps)), comm)
    for rows in batches_of(100, len(y), ROWS, EPOCHS):
        hogwild.step(Batch(x, y, rows))
    hogwild.close()
    result = final(hogwild.model, x, y)
    assert (np.abs(result - mean) <= reach).all(), f"{result}: expected {mean} +- {reach}"


def test_closing_keeps_the_model(comm):
    hogwild = Hogwild(small_mlp(), SGD(0.1), comm, lock=True)
    hogwild.step(random_batches(hogwild.model, 5)[0])
    weights = hogwild.weights()
    hogwild.close()
    hogwild.close()
    np.testing.assert_array_equal(hogwild.model.params, weights)
    np.testing.assert_array_equal(hogwild.weights(), weights)
    hogwild.model.params[:] = 0  # private memory again: writing to it must not crash


def test_a_state_is_taken_up_by_all_ranks(comm):
    first, second = (Hogwild(small_mlp(), Adam(1e-2), comm) for _ in range(2))
    for batch in random_batches(first.model, 1, 3):  # rows for rank 0 only
        first.step(batch)
    second.load_state(first.state())
    np.testing.assert_array_equal(second.weights(), first.weights())
    for mine, theirs in zip(first.state().values(), second.state().values()):
        np.testing.assert_allclose(mine, theirs, rtol=1e-12)
    for hogwild in (first, second):
        hogwild.close()


def test_the_state_is_one_though_ranks_took_different_numbers_of_steps(comm):
    hogwild = Hogwild(small_mlp(), Adam(1e-2), comm)
    (batch,) = random_batches(hogwild.model, 9, 1)
    for _ in range(3 * (comm.rank + 1)):
        hogwild.step(batch)
    state = hogwild.state()
    assert state["steps"] == round(3 * (comm.size + 1) / 2)
    for other in comm.allgather(state):
        for name, value in state.items():
            np.testing.assert_array_equal(other[name], value, name)
    hogwild.close()


def test_a_closed_one_says_so(comm):
    """Otherwise its ranks would train on, each by itself."""
    hogwild = Hogwild(small_mlp(), SGD(0.1), comm)
    hogwild.close()
    hogwild.close()
    np.testing.assert_array_equal(hogwild.weights(), small_mlp().params)
    with pytest.raises(ValueError, match="closed"):
        hogwild.step(random_batches(hogwild.model, 9)[0])


@pytest.mark.parametrize("switch", [{"lock": "no"}, {"lock": 1}, {"sparse": None}])
def test_a_switch_is_on_or_off(comm, switch):
    with pytest.raises(TypeError, match="expected True or False"):
        Hogwild(small_mlp(), SGD(0.1), comm, **switch)


@pytest.mark.parametrize("optimizer", [SGD(0.1, momentum=0.9), SGD(0.1, weight_decay=0.1), Adam()])
def test_sparse_updates_need_an_optimizer_that_leaves_the_rest_alone(comm, optimizer):
    with pytest.raises(ValueError, match="expected SGD without"):
        Hogwild(small_mlp(), optimizer, comm, sparse=True)
