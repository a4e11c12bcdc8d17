"""Several inputs, whole numbers and bools reach a module as they are, in every strategy."""

import copy
from functools import cache
from itertools import product

import numpy as np
import pytest
import torch

from nn import SGD, Batch, mlp
from nn.torch import TorchModel
from strategies import Sequential
from strategies.base import Refused
from tests.support.exact import EXACT
from tests.support.oracles import assert_trains_like

SHAPES = {"ids": (5,), "mask": (5,), "positions": (5,), "features": (5, 2)}


class Net(torch.nn.Module):
    """Attention over words, with positions, features and a mask of padding."""

    def __init__(self):
        super().__init__()
        self.words, self.places = torch.nn.Embedding(20, 6), torch.nn.Embedding(9, 6)
        self.mix = torch.nn.Linear(2, 6)
        self.attention = torch.nn.MultiheadAttention(6, 2, batch_first=True)

    def forward(self, ids, mask, positions, features):
        h = self.words(ids) + self.places(positions) + self.mix(features)
        h = h + self.attention(h, h, h, key_padding_mask=mask, need_weights=False)[0]
        return (h * (~mask)[..., None]).sum(1)


def modules():
    torch.manual_seed(3)
    return torch.nn.Sequential(
        Net(), torch.nn.Tanh(), torch.nn.Linear(6, 7), torch.nn.Tanh(), torch.nn.Linear(7, 3)
    ).double()


def rows(n, seed=0):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 6, n)
    x = {
        "ids": rng.integers(0, 20, (n, 5)),
        "mask": np.arange(5) >= lengths[:, None],
        "positions": np.tile(rng.permutation(5), (n, 1)).astype(np.int32),
        "features": rng.standard_normal((n, 5, 2)),
    }
    return x, rng.integers(0, 3, n)


@cache
def tried(form):
    shape = SHAPES if form is dict else tuple(SHAPES.values())
    return TorchModel(modules(), seed=None, input_shape=shape)


def build(form=dict):
    return copy.deepcopy(tried(form))  # to try a module takes long


def batches(form=dict):
    made = [rows(n, n) for n in (8, 7, 2)]
    return [Batch(x if form is dict else tuple(x.values()), y) for x, y in made]


def test_says_what_it_takes():
    model = build()
    assert model.input_shape == SHAPES
    first = {name: kinds[0] for name, kinds in model.kinds.items()}
    assert first == {"ids": "i", "mask": "b", "positions": "i", "features": "f"}


@pytest.mark.workers(1)
@pytest.mark.parametrize("form", [dict, tuple])
def test_equals_a_plain_loop_of_torch(form):
    model, net = build(form), modules()
    strategy, optimizer = Sequential(model, SGD(0.1)), torch.optim.SGD(net.parameters(), 0.1)
    for batch in batches(form):
        x, y = rows(len(batch), len(batch))
        tensors = {name: torch.from_numpy(each) for name, each in x.items()}
        first, *others = copy.copy(net)
        outputs = torch.nn.Sequential(*others)(first(**tensors))
        loss = torch.nn.functional.cross_entropy(outputs, torch.from_numpy(y))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert strategy.step(batch) == pytest.approx(loss.item(), rel=1e-12)
    expected = torch.cat([weight.detach().ravel() for weight in net.parameters()]).numpy()
    np.testing.assert_allclose(strategy.weights(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "form"), [*product(EXACT, [dict]), ("DataParallel", tuple), ("Pipeline", tuple)]
)
def test_every_strategy_trains_several_inputs(comm, name, form):
    try:
        strategy = EXACT[name](build(form), SGD(0.1, momentum=0.9), comm)
    except Refused as refusal:
        pytest.skip(str(refusal))
    oracle = Sequential(build(form), SGD(0.1, momentum=0.9))
    assert_trains_like(oracle, strategy, batches(form), comm)
    strategy.close()


@pytest.mark.workers(1)
def test_predicts_several_inputs():
    x, _ = rows(7)
    model = build()
    np.testing.assert_array_equal(model.predict(x, rows=3), model.predict(x))


class Table(torch.nn.Module):
    """Looks up the last bits of whole numbers."""

    def __init__(self):
        super().__init__()
        self.table = torch.nn.Embedding(4, 3)

    def forward(self, x):
        return self.table(x % 4).sum(1)


@pytest.mark.workers(1)
def test_whole_numbers_stay_whole():
    """Floats of float32 would round these to even numbers."""
    ids = 2**24 + np.arange(8).reshape(4, 2) % 4
    model = TorchModel(Table(), input_shape=(2,))
    large, _ = model.forward(ids)
    small, _ = model.forward(ids % 4)
    np.testing.assert_array_equal(large, small)
    as_floats, _ = model.forward((ids % 4).astype(np.float64))
    np.testing.assert_array_equal(as_floats, small)


@pytest.mark.workers(1)
@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint64])
def test_refuses_whole_numbers_that_floats_would_round(dtype):
    x, y = np.array([[2**25, 3], [2**24 + 1, 2]], dtype), np.array([0, 1])
    with pytest.raises(ValueError, match=r"whole number 16777217, which float32 would round"):
        Sequential(mlp([2, 3]), SGD(0.1)).step(Batch(x, y))
    x[1] = 2**26
    Sequential(mlp([2, 3]), SGD(1e-20)).step(Batch(x, y))


@pytest.mark.workers(1)
def test_refuses_inputs_that_do_not_fit():
    x, y = rows(4)
    strategy = Sequential(build(), SGD(0.1))
    with pytest.raises(ValueError, match=r"expected x of Batch as a dict of arrays"):
        strategy.step(Batch({"ids": x["ids"]}, y))
    with pytest.raises(ValueError, match=r"expected x of Batch as a dict of arrays"):
        strategy.step(Batch(x["ids"], y))
    with pytest.raises(ValueError, match=r"rows of x\['ids'\] of shape \(4,\)"):
        strategy.step(Batch({**x, "ids": x["ids"][:, :4]}, y))
    with pytest.raises(ValueError, match=r"4 inputs: the model takes one array"):
        Sequential(mlp([5, 3]), SGD(0.1)).step(Batch(x, y))
    with pytest.raises(ValueError, match=r"of several inputs: Linear.* takes one"):
        type(mlp([5, 3]))(mlp([5, 3]).layers, input_shape=((5,), (5,)))


AS_OTHERS_HAVE_IT = {
    "tensors": lambda x, y: (torch.from_numpy(x), torch.from_numpy(y)),
    "tensors with gradients": lambda x, y: (torch.from_numpy(x).requires_grad_(), y),
    "lists": lambda x, y: (x.tolist(), y.tolist()),
    "every second column": lambda x, y: (np.repeat(x, 2, 1)[:, ::2], np.repeat(y, 2)[::2]),
    "reversed": lambda x, y: (x[::-1].copy()[::-1], y[::-1].copy()[::-1]),
    "columns": lambda x, y: (np.asfortranarray(x), y),
    "big-endian": lambda x, y: (x.astype(">f8"), y.astype(">i8")),
    "float16": lambda x, y: (x.astype(np.float16), y.astype(np.uint8)),
    "uint8": lambda x, y: (x.astype(np.uint8), y.astype(np.uint64)),
    "read-only": lambda x, y: (np.broadcast_to(x, x.shape), np.broadcast_to(y, y.shape)),
}


@pytest.mark.workers(1)
@pytest.mark.parametrize("kind", AS_OTHERS_HAVE_IT)
@pytest.mark.parametrize("form", ["numpy", "torch"])
def test_the_same_numbers_train_alike_in_every_array(kind, form):
    def net():
        if form == "numpy":
            return mlp([6, 5, 4], dtype="float64")
        return TorchModel([torch.nn.Linear(6, 5), torch.nn.Linear(5, 4)], dtype="float64")

    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 9, (8, 6)).astype(np.float64), rng.integers(0, 4, 8)
    oracle, strategy = Sequential(net(), SGD(0.1)), Sequential(net(), SGD(0.1))
    given = AS_OTHERS_HAVE_IT[kind](x, y)
    assert strategy.step(Batch(*given)) == oracle.step(Batch(x, y))
    np.testing.assert_array_equal(strategy.weights(), oracle.weights())
