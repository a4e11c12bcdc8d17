"""What rounding explains: enough for every right strategy, and too little for a wrong one."""

from functools import cache, partial

import numpy as np
import pytest
import torch
from torch import nn as tnn

from bench.core.rounding import Rounding, growth, unit_roundoff
from nn import SGD, AdaGrad, Adam, Batch, Model, mlp
from nn.layers import Layer, Linear, Tanh
from nn.sequences import Sequences
from nn.torch.model import TorchModel
from strategies import DataParallel, Pipeline, Sequential, TensorParallel, ZeRO
from tests.support import compared
from tests.support.oracles import assert_trains_like, random_batches

torch.set_num_threads(1)


class Block(tnn.Module):
    """The block of a transformer; the gradient of its keys' bias is nothing but rounding."""

    def __init__(self, width):
        super().__init__()
        self.before, self.behind = tnn.LayerNorm(width), tnn.LayerNorm(width)
        self.qkv, self.out = tnn.Linear(width, 3 * width), tnn.Linear(width, width)
        self.up, self.down = tnn.Linear(width, 4 * width), tnn.Linear(4 * width, width)

    def forward(self, x):
        q, k, v = self.qkv(self.before(x)).split(x.shape[-1], -1)
        x = x + self.out(tnn.functional.scaled_dot_product_attention(q, k, v, is_causal=True))
        return x + self.down(tnn.functional.gelu(self.up(self.behind(x))))


class TiedGPT(tnn.Module):
    """A small GPT in one module, whose embedding is its output layer too."""

    def __init__(self, vocabulary=11, width=16, layers=2):
        super().__init__()
        self.words, self.places = tnn.Embedding(vocabulary, width), tnn.Embedding(6, width)
        self.blocks = tnn.Sequential(*(Block(width) for _ in range(layers)))
        for parameter in self.parameters():
            if parameter.ndim == 2:
                tnn.init.normal_(parameter, 0, 0.02)

    def forward(self, tokens):
        x = self.blocks(self.words(tokens) + self.places(torch.arange(tokens.shape[1])))
        return (x @ self.words.weight.T).flatten(0, 1)


@cache
def gpt_weights():
    return TorchModel(TiedGPT, dtype="float64", seed=1, input_shape=(6,)).params.copy()


def gpt():
    return TorchModel(TiedGPT, dtype="float64", seed=1, input_shape=(6,), params=gpt_weights())


def tokens(rows=7, steps=3):
    rng = np.random.default_rng(0)
    return [Sequences(rng.integers(0, 11, (rows, 7))) for _ in range(steps)]


def deep(dtype="float64"):
    """Build a deep net, in whose first layers gradients are tiny."""
    hidden = [each for _ in range(12) for each in (Linear(6, 6), Tanh())]
    return Model([Linear(5, 6), Tanh(), *hidden, Linear(6, 4)], dtype, seed=1)


HARSH = {
    "adagrad": lambda: AdaGrad(0.005, eps=1e-16),
    "adam": lambda: Adam(0.005, eps=1e-16),
}
"""Optimizers in which rounding decides how far a weight without gradient moves."""


@pytest.mark.workers(1, 2, 3)
@pytest.mark.parametrize("optimizer", HARSH)
@pytest.mark.parametrize("make", [DataParallel, partial(ZeRO, stage=3)])
def test_a_right_training_passes_where_rounding_is_amplified(comm, optimizer, make):
    oracle = Sequential(gpt(), HARSH[optimizer]())
    strategy = make(gpt(), HARSH[optimizer](), comm)
    before = compared.take()
    assert_trains_like(oracle, strategy, tokens(), comm)
    (found,) = compared.take()
    for each in (*before, found):  # they are on record with this test
        compared.note(each)
    assert found.error <= found.tolerance, "what has passed is on record as off"


@pytest.mark.workers(2)
@pytest.mark.parametrize("optimizer", HARSH)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 1e-6)])
@pytest.mark.parametrize("make", [TensorParallel, Pipeline])
def test_a_right_training_of_a_deep_net_passes(comm, optimizer, dtype, tolerance, make):
    oracle = Sequential(deep(dtype), HARSH[optimizer]())
    strategy = make(deep(dtype), HARSH[optimizer](), comm)
    assert_trains_like(oracle, strategy, random_batches(oracle.model, 7), comm, tolerance)
    strategy.close()


@pytest.mark.workers(2)
@pytest.mark.parametrize(
    ("place", "size"),
    [
        *(("words", size) for size in (1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9)),
        *(("blocks.0.qkv.weight", size) for size in (1e-3, 1e-5, 1e-7)),
        *(("blocks.1.up.weight", size) for size in (1e-3, 1e-5, 1e-7)),
    ],
)
def test_a_wrong_gradient_fails_all_the_same(comm, size, place):
    """The error is in one parameter on one rank, relative to the gradient."""

    class Wrong(DataParallel):
        def gradients(self, batch):
            loss = super().gradients(batch)
            for each in self.parameters:
                if self.comm.rank == 1 and place in each.name:
                    self.model.grads[each.start : each.stop] *= 1 + size
            return loss

    oracle, strategy = Sequential(gpt(), SGD(0.5)), Wrong(gpt(), SGD(0.5), comm)
    with pytest.raises(AssertionError, match=r"step \d: rank 0: weights differ by"):
        assert_trains_like(oracle, strategy, tokens(), comm)


class Mixed(Layer):
    """Subtracts a part of the mean row, as no layer may."""

    def forward(self, x):
        return x - 1e-6 * x.mean(axis=0), None

    def backward(self, dy, ctx, need_dx=True, add=False):
        return dy - 1e-6 * dy.mean(axis=0)


@pytest.mark.workers(2)
def test_a_model_that_mixes_rows_has_no_large_rounding(comm):
    """What the order of rows changes in plain training itself is no measure if it is too much."""

    def mixed():
        return Model([Linear(5, 4), Mixed(), Linear(4, 3)], "float64", seed=1)

    oracle, strategy = Sequential(mixed(), SGD(0.1)), DataParallel(mixed(), SGD(0.1), comm)
    with pytest.raises(AssertionError, match=r"rounding cannot be told: the gradient of 0\.weight"):
        assert_trains_like(oracle, strategy, random_batches(oracle.model, 7), comm)


@pytest.mark.workers(1)
def test_a_training_that_rounding_decides_is_no_proof():
    """Without eps the sign of a gradient's rounding moves a weight by the whole learning rate."""

    def flat():
        model = mlp([3, 40, 2], dtype="float64", seed=1)
        model.params[model.offsets[2] :] = 1.0  # both classes alike: the gradients cancel
        return model

    x = np.random.default_rng(0).standard_normal((8, 3))
    batches = [Batch(np.repeat(x, 2, axis=0), np.tile([0, 1], 8))] * 3
    oracle = Sequential(flat(), Adam(0.1, eps=1e-25))
    problem = Rounding(oracle, oracle.state(), batches).after(2).problem
    assert "of the weights of plain training, so it shows no difference" in problem


@pytest.mark.workers(1)
def test_measuring_leaves_the_oracle_where_it_was():
    oracle, other = (Sequential(deep(), Adam(0.01)) for _ in range(2))
    batches = random_batches(oracle.model, 5)
    rounding = Rounding(oracle, oracle.state(), batches)
    for batch in batches:
        oracle.step(batch)
        other.step(batch)
        rounding.after(0)
    assert rounding.after(2).weights.max() < 1e-9
    np.testing.assert_array_equal(oracle.weights(), other.weights())


@pytest.mark.workers(1)
def test_a_word_that_no_row_holds_may_not_move():
    words = TorchModel(
        lambda: tnn.Sequential(tnn.Embedding(11, 4), tnn.Flatten(), tnn.Linear(24, 3)),
        dtype="float64", input_shape=(6,),
    )  # fmt: skip
    oracle = Sequential(words, AdaGrad(0.1, eps=1e-16))
    rows = Batch(np.random.default_rng(0).integers(0, 3, (4, 6)), np.array([0, 1, 2, 1]))
    explained = Rounding(oracle, oracle.state(), [rows]).after(0)
    table = explained.spread[: 11 * 4].reshape(11, 4)
    assert np.all(table[:3] > 0)
    assert not table[3:].any()
    assert not explained.weights[3 * 4 : 11 * 4].any()


@pytest.mark.workers(1)
def test_bounds_follow_the_precision():
    assert unit_roundoff(mlp([2, 2], dtype="float64")) == 2.0**-53
    assert unit_roundoff(mlp([2, 2], dtype="float32")) == 2.0**-24
    mixed = TorchModel(tnn.Linear(2, 2), dtype="float32", compute="bfloat16")
    assert unit_roundoff(mixed) == 2.0**-8
    assert growth(100, 2.0**-24) == 80 * 2.0**-24


@pytest.mark.workers(2)
def test_training_in_bfloat16(comm):
    """Its rounding is 65,000 times as large, and measured like any other."""

    def net():
        return TorchModel(
            lambda: tnn.Sequential(tnn.Linear(5, 16), tnn.Tanh(), tnn.Linear(16, 3)),
            dtype="float32", compute="bfloat16",
        )  # fmt: skip

    oracle = Sequential(net(), SGD(0.1))
    assert_trains_like(
        oracle, DataParallel(net(), SGD(0.1), comm), random_batches(oracle.model, 9), comm, 1e-6
    )
