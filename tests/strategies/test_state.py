"""States are copies, are taken over whole or not at all, and serve objects that have trained."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from nn import EMA, SGD, Adam, Model
from nn.layers import Frozen, Linear, Tanh
from strategies import (
    CompressedDataParallel,
    DataParallel,
    Hogwild,
    LocalSGD,
    PowerSGD,
    Sequential,
    SharedDataParallel,
    Strategy,
    ZeRO,
)
from strategies.catalog import CATALOG
from tests.support.oracles import random_batches

torch = pytest.importorskip("torch")
from nn.torch.model import TorchModel  # noqa: E402


def net() -> Model:
    layers = [Frozen(Linear(5, 6)), Tanh(), Linear(6, 7), Tanh(), Linear(7, 5), Tanh()]
    return Model([*layers, Linear(5, 3)], "float64", seed=1)


BATCHES = random_batches(net(), 13, steps=8)


def net_with_statistics() -> Model:
    torch.manual_seed(0)
    norm = torch.nn.BatchNorm1d(6)
    return TorchModel(
        torch.nn.Sequential(torch.nn.Linear(5, 6), norm, torch.nn.Linear(6, 3)).double()
    )


MAKE: dict[str, Callable[[Any], Strategy]] = {
    name: partial(lambda entry, comm: entry(net(), Adam(), comm), entry)
    for name, entry in CATALOG.items()
}
MAKE |= {
    "average": lambda comm: DataParallel(net(), EMA(SGD(0.1, momentum=0.9)), comm),
    "outer": lambda comm: LocalSGD(net(), Adam(), comm, 2, outer=SGD(0.7, momentum=0.9)),
    "batch norm": lambda comm: DataParallel(net_with_statistics(), Adam(), comm),
}
FOUR = [name for name, entry in CATALOG.items() if entry.fewest_ranks > 2]
"""Strategies that need 4 ranks; the others are tried on 2."""
TWO = [name for name in MAKE if name not in FOUR]
ALIKE = ("DataParallel-", "ZeRO-1", "ZeRO-2", "Pipeline-", "GPipe", "Hogwild-", "TopK-all")
OF_EACH_KIND = [name for name in TWO if not name.startswith(ALIKE)]
"""Strategies that each keep, cut or share something in another way."""

EACH_ITS_OWN = ("Hogwild", "Hogwild-lock", "TopK-1%", "PowerSGD-2", "TopK-all")
"""Strategies whose ranks go on from a mean over the ranks, so not to the bit."""


def trained(name, comm, *numbers):
    """Make a strategy and take some steps, each on the batch of that number."""
    strategy = MAKE[name](comm)
    train(strategy, *numbers)
    return strategy


def train(strategy, *numbers):
    for number in numbers:
        strategy.step(BATCHES[number])


def copied(arrays):
    return {name: np.array(array) for name, array in arrays.items()}


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, name)


@pytest.mark.workers(2)
@pytest.mark.parametrize("name", TWO)
def test_later_steps_change_nothing_that_was_handed_out_or_in(comm, name):
    one, other = trained(name, comm, 0, 1, 2), MAKE[name](comm)
    given, weights = one.state(), one.weights()
    kept, kept_weights = copied(given), weights.copy()
    taken = copied(kept)
    other.load_state(taken)
    for strategy in (one, other):
        train(strategy, 3, 4, 5)
    assert not np.array_equal(one.weights(), weights)
    assert not np.array_equal(other.weights(), weights)
    np.testing.assert_array_equal(weights, kept_weights)
    assert_equal(given, kept)
    assert_equal(taken, kept)

    # Nor does the owner of these arrays change what trains on.
    reached = one.state(), other.state()
    for array in (*given.values(), *taken.values(), weights):
        array[...] = 7
    for strategy, state in zip((one, other), reached):
        assert_equal(strategy.state(), state)
        strategy.close()


def damages(state):
    """Yield the state with one thing wrong at a time."""
    for name, array in state.items():
        yield {k: v for k, v in state.items() if k != name}
        yield state | {name: np.append(array, 0)}
        yield state | {name: array.astype(np.complex64)}
    for steps in (-1, 2.5, np.nan):
        yield state | {"steps": np.array(steps)}
    slots = [name for name in state if name.startswith("optimizer.")]
    yield {k: v for k, v in state.items() if k not in slots}
    yield state | {"optimizer.other": state["params"]}


@pytest.mark.workers(2)
@pytest.mark.parametrize("name", OF_EACH_KIND)
def test_a_state_with_anything_wrong_is_refused_on_all_ranks_and_changes_nothing(comm, name):
    """Only the last rank is given the damaged one, as when its disk is at fault."""
    strategy, state = trained(name, comm, 0, 1, 2), copied(trained(name, comm, 3, 4, 5, 6).state())
    before = strategy.state()
    for damaged in damages(state):
        alone = name == "Sequential" or comm.rank == comm.size - 1
        with pytest.raises(ValueError, match=r"state|statistics|frozen"):
            strategy.load_state(damaged if alone else state)
    assert_equal(strategy.state(), before)
    strategy.load_state(state)
    assert_equal(strategy.state(), state)


@pytest.mark.workers(2)
@pytest.mark.parametrize("name", OF_EACH_KIND)
def test_a_state_serves_an_object_that_has_trained(comm, name):
    """In the middle of a period too: what was counted since the last mean is forgotten."""
    comm = comm.Split(comm.rank) if name in EACH_ITS_OWN else comm
    one, other = trained(name, comm, 0, 1, 2), trained(name, comm, 7, 6, 5, 4, 3)
    other.load_state(one.state())
    for strategy in (one, other):
        train(strategy, 3, 4, 5)
    assert_equal(other.state(), one.state())
    np.testing.assert_array_equal(other.weights(), one.weights())


@pytest.mark.workers(2)
@pytest.mark.parametrize("second", [DataParallel, SharedDataParallel, LocalSGD])
def test_a_model_that_another_strategy_has_taken_is_not_trained_by_the_first(comm, second):
    """It would sum a gradient that nobody has computed."""
    model = net()
    first = DataParallel(model, Adam(), comm)
    train(first, 0, 1)
    other, like = second(model, SGD(0.1), comm), second(net(), SGD(0.1), comm)
    like.load_state(other.state())
    with pytest.raises(ValueError, match="this model has been given other memory since"):
        first.step(BATCHES[2])
    for strategy in (other, like):
        train(strategy, 2, 3)
    np.testing.assert_array_equal(other.weights(), like.weights())
    for strategy in (other, like):
        strategy.close()


@pytest.mark.workers(2)
@pytest.mark.parametrize(
    "first",
    [
        partial(SharedDataParallel, private=False),
        partial(SharedDataParallel, private=True),
        Hogwild,
    ],
    ids=["in place", "private", "Hogwild"],
)
@pytest.mark.parametrize("second", [Sequential, DataParallel, ZeRO])
def test_a_model_in_shared_memory_is_taken_once_that_is_closed(comm, first, second):
    """Each rank would apply the update to the same memory."""
    model = net()
    shared = first(model, SGD(0.1), comm)
    with pytest.raises(ValueError, match=r"another strategy trains this model.*close\(\) it first"):
        second(model, Adam(), comm)
    shared.close()
    other, like = second(model, Adam(), comm), second(net(), Adam(), comm)
    like.load_state(other.state())
    for strategy in (other, like):
        train(strategy, 2, 3)
    np.testing.assert_array_equal(other.weights(), like.weights())


ACCUMULATING: dict[str, Callable[..., Strategy]] = {
    "Sequential": Sequential,
    "DataParallel": partial(DataParallel, buckets=2),
    "SharedDataParallel": SharedDataParallel,
    "ZeRO-1": ZeRO,
    "ZeRO-3": partial(ZeRO, stage=3),
    "PowerSGD": lambda m, o, comm, **more: CompressedDataParallel(m, o, comm, PowerSGD(2), **more),
}


@pytest.mark.workers(2)
@pytest.mark.parametrize("name", ACCUMULATING)
def test_a_state_taken_within_a_step_of_several_parts_disturbs_nothing(comm, name):
    def made():
        return ACCUMULATING[name](net(), Adam(), comm, accumulate=3)

    one, other, resumed = made(), made(), made()
    for batch in BATCHES[:3]:
        before = other.state()
        loss = one.gradients(batch)
        state = one.state()
        assert_equal(state, before)
        loss = one.reduce(loss)
        one.update()
        assert other.step(batch) == loss
        assert_equal(one.state(), other.state())
    if name != "PowerSGD":  # whose residuals are a mean
        resumed.load_state(state)
        resumed.step(batch)
        assert_equal(resumed.state(), other.state())
    for strategy in (one, other, resumed):
        strategy.close()


@pytest.mark.workers(4)
@pytest.mark.parametrize("name", FOUR)
def test_the_same_on_four_ranks(comm, name):
    test_later_steps_change_nothing_that_was_handed_out_or_in(comm, name)
    test_a_state_with_anything_wrong_is_refused_on_all_ranks_and_changes_nothing(comm, name)
    test_a_state_serves_an_object_that_has_trained(comm, name)
