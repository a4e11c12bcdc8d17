"""Every strategy with what recipes have besides a model: optimizers, losses and accumulation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nn import Batch, mlp
from nn.loss import CrossEntropy
from strategies import DataParallel, Hogwild, LocalSGD, Sequential, SharedDataParallel, ZeRO
from strategies.base import Refused
from tests.support.exact import EXACT, OF_OWN_LOSS
from tests.support.optimizers import OPTIMIZERS, RECIPES
from tests.support.oracles import assert_trains_like

ALL = {**EXACT, **OF_OWN_LOSS}
LINEAR = ("groups",)
"""Recipes that are linear in the gradient, as LocalSGD has to have them to equal plain training."""

CLASSES = 4


def net():
    """A net of whose labels some are padding, and some classes weigh more."""
    loss = CrossEntropy(0.1, [1, 2, 0.5, 1], ignore_index=-100)
    return mlp([6, 8, 7, CLASSES], "tanh", dtype="float64", loss=loss)


def batch(rng, rows):
    labels = rng.integers(0, CLASSES, rows)
    labels[rng.random(rows) < 0.4] = -100
    labels[-1] = 0  # one counts
    return Batch(rng.standard_normal((rows, 6)), labels, weights=rng.random(rows) + 0.1)


def batches(*sizes, seed=0):
    rng = np.random.default_rng(seed)
    return [batch(rng, rows) for rows in sizes]


def trained_by(name):
    return [recipe for recipe in RECIPES if not name.startswith("LocalSGD") or recipe in LINEAR]


@pytest.mark.parametrize(
    ("name", "recipe"), [(name, recipe) for name in ALL for recipe in trained_by(name)]
)
def test_every_strategy_trains_with_the_optimizers_of_recipes(comm, name, recipe):
    oracle = Sequential(net(), RECIPES[recipe]())
    try:
        strategy = ALL[name](net(), RECIPES[recipe](), comm)
    except Refused as refusal:
        pytest.skip(str(refusal))
    own_loss = name in OF_OWN_LOSS
    assert_trains_like(oracle, strategy, batches(8, 7, 1, 8), comm, own_loss=own_loss)
    if recipe == "average":
        averages = strategy.averaged_weights(), oracle.averaged_weights()
        np.testing.assert_allclose(*averages, rtol=0, atol=1e-12)
        assert np.abs(averages[0] - strategy.weights()).max() > 1e-3
    strategy.close()


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("name", [name for name in EXACT if name != "TopK-all"])
def test_a_recipe_goes_on_from_the_state_of_plain_training(comm, name, recipe):
    first, second, third = batches(8, 7, 5)
    oracle = Sequential(net(), RECIPES[recipe]())
    try:
        strategy = EXACT[name](net(), RECIPES[recipe](), comm)
    except Refused as refusal:
        pytest.skip(str(refusal))
    oracle.step(first)
    strategy.load_state(oracle.state())
    strategy.step(second)
    oracle.load_state(strategy.state())
    for each in (oracle, strategy):
        each.step(third)
    np.testing.assert_allclose(strategy.weights(), oracle.weights(), rtol=0, atol=1e-12)
    strategy.close()


@st.composite
def recipes(draw):
    names = [*OPTIMIZERS, *RECIPES]
    sizes = draw(st.lists(st.integers(1, 9), min_size=2, max_size=4))
    return (
        draw(st.sampled_from(names)),
        draw(st.sampled_from([DataParallel, SharedDataParallel, ZeRO])),
        draw(st.integers(1, 4)),
        batches(*sizes, seed=draw(st.integers(0, 99))),
    )


@settings(max_examples=25)
@given(recipes())
def test_recipes_of_all_kinds_are_trained_alike(comm, recipe):
    """Accumulation in any number of parts is one step on the whole batch."""
    optimizer, make, parts, of_some_sizes = recipe
    build = (OPTIMIZERS | RECIPES)[optimizer]
    oracle = Sequential(net(), build(), accumulate=parts)
    strategy = make(net(), build(), comm, accumulate=parts)
    plain = Sequential(net(), build())
    for each in of_some_sizes:
        expected = plain.step(each)
        assert oracle.step(each) == pytest.approx(expected, rel=1e-12)
        assert strategy.step(each) == pytest.approx(expected, rel=1e-12)
    for found in (oracle.weights(), strategy.weights()):
        np.testing.assert_allclose(found, plain.weights(), rtol=0, atol=1e-11)
    strategy.close()


@pytest.mark.workers(2, 3)
def test_labels_of_each_ranks_own_are_counted_over_all_ranks(comm):
    """Fails if a rank divides by the labels that count in its own rows."""
    (whole,) = batches(4 * comm.size)
    for make in (DataParallel, SharedDataParallel, ZeRO, LocalSGD):
        own = slice(4 * comm.rank, 4 * comm.rank + 4)
        oracle, strategy = (
            Sequential(net(), OPTIMIZERS["sgd"]()),
            make(net(), OPTIMIZERS["sgd"](), comm),
        )
        local = Batch.local(whole.x[own], whole.y[own], comm, weights=whole.weights[own])
        oracle.step(whole)
        strategy.step(local)
        np.testing.assert_allclose(strategy.weights(), oracle.weights(), rtol=0, atol=1e-12)
        strategy.close()


@pytest.mark.workers(2)
def test_ranks_that_step_apart_average_no_weights(comm):
    with pytest.raises(Refused, match="expected an optimizer without"):
        Hogwild(net(), RECIPES["average"](), comm)
