"""Parameters that the loss does not depend on, in some steps or in all, move as in a loop of torch.

There their gradient is None, and neither weight decay nor momentum moves them.
"""

import copy
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn as tnn

from nn import SGD, AdaGrad, AdamW, Batch
from nn.loss import MeanSquaredError
from nn.torch import TorchModel, TorchOptimizer
from strategies import DataParallel, LocalSGD, Pipeline, Sequential
from strategies.base import Refused
from tests.support.exact import EXACT

CLASSES, EXPERTS = 3, 3


class Experts(tnn.Module):
    """Each row goes through one of three experts; a head is never used."""

    def __init__(self):
        super().__init__()
        self.experts = tnn.ModuleList(tnn.Linear(4, CLASSES) for _ in range(EXPERTS))
        self.head = tnn.Linear(4, 2)
        self.all = tnn.Linear(4, CLASSES)

    def forward(self, x):
        y = self.all(x)
        which = (x[:, 0] > 0).long() + (x[:, 1] > 0).long()
        for i, expert in enumerate(self.experts):
            if (which == i).any():  # or else it gets no gradient
                y = y + torch.where((which == i)[:, None], expert(x), 0)
        return y


def net():
    torch.manual_seed(0)
    return tnn.Sequential(tnn.Linear(4, 4), tnn.Tanh(), Experts()).double()


def detached():
    """Layers of which the first two get no gradient, because a later one cuts it off."""

    class Detach(tnn.Module):
        def forward(self, x):
            return x.detach() * 2

    torch.manual_seed(0)
    return tnn.Sequential(
        tnn.Linear(4, 4), tnn.Tanh(), Detach(), tnn.Linear(4, CLASSES), tnn.Tanh()
    ).double()


NETS = {"experts": net, "detached": detached}


def batches():
    """Batches in which some experts have no row, on some ranks or on all."""
    rng = np.random.default_rng(0)
    found = []
    for rows, experts in [(6, (0, 1, 2)), (5, (2,)), (7, (0, 2)), (1, (1,)), (6, (1,)), (3, (0,))]:
        signs = np.array([(-1, -1), (1, -1), (1, 1)])[rng.choice(experts, rows)]
        x = rng.standard_normal((rows, 4))
        x[:, :2] = signs * (np.abs(x[:, :2]) + 0.1)
        found.append(Batch(x, rng.integers(0, CLASSES, rows)))
    return found


class First(tnn.Module):
    """Experts on the inputs themselves, so that a test chooses who gets rows."""

    def __init__(self):
        super().__init__()
        self.experts = Experts()

    def forward(self, x):
        return self.experts(x)


def first():
    torch.manual_seed(0)
    return First().double()


class Gain(tnn.Module):
    """Two numbers that multiply 0 and -0: of a single row one of them has -0 for its gradient."""

    def __init__(self):
        super().__init__()
        self.plus, self.minus = (tnn.Parameter(torch.ones(1, 1)) for _ in range(2))

    def forward(self, x):
        zeros = torch.zeros_like(x[:, :1])
        return x + torch.cat([x[:, :2] * 0, zeros * self.plus - zeros * self.minus], 1)


def dead():
    """Experts behind units that are dead: their gradients are zeros, but not absent."""
    torch.manual_seed(0)
    before = tnn.Linear(4, 4)
    with torch.no_grad():
        before.bias -= 100
    behind = tnn.Sequential(First(), Gain())
    return tnn.Sequential(before, tnn.ReLU(), Whole(behind)).double()


class Whole(tnn.Module):
    """Modules as one layer."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        return self.module(x)


class TopOne(tnn.Module):
    """Each row goes through one of more experts than the trial of a module has rows."""

    def __init__(self):
        super().__init__()
        self.router = tnn.Linear(4, 12)
        self.experts = tnn.ModuleList(tnn.Linear(4, CLASSES) for _ in range(12))

    def forward(self, x):
        share, which = self.router(x).softmax(1).max(1)
        y = torch.zeros(len(x), CLASSES, dtype=x.dtype)
        for i in which.unique():
            (at,) = (which == i).nonzero(as_tuple=True)
            y = y.index_add(0, at, self.experts[i](x[at]) * share[at, None])
        return y


def top_one():
    torch.manual_seed(0)
    return tnn.Sequential(tnn.Linear(4, 4), TopOne()).double()


class Gated(tnn.Module):
    """Adds x w in batches that have a row above 0; or never, but it has the weight."""

    def __init__(self, weight, ever=True):
        super().__init__()
        self.weight, self.bias, self.ever = weight, tnn.Parameter(torch.zeros(4)), ever

    def forward(self, x):
        above = x[:, :1] > 0
        y = x + self.bias
        return y + torch.where(above, x @ self.weight, 0) if self.ever and above.any() else y


def tied():
    """A weight of three layers, of which one never uses it; and one that none of two uses."""
    torch.manual_seed(0)
    one, other = (tnn.Parameter(torch.randn(4, 4) / 2) for _ in range(2))
    layers = (Gated(one), Gated(other, False), Gated(one, False), Gated(one), Gated(other, False))
    return tnn.Sequential(*layers, tnn.Linear(4, CLASSES)).double()


class Cut(tnn.Module):
    """Passes the gradient on of rows above 0 alone, and none if there are no such rows."""

    def forward(self, x):
        above = x[:, :1] > 0
        return torch.where(above, x, x.detach()) if above.any() else x.detach()


def cut():
    torch.manual_seed(0)
    before = tnn.Linear(4, 5), tnn.Tanh(), tnn.Linear(5, 4)
    return tnn.Sequential(*before, Cut(), tnn.Linear(4, 4), tnn.Linear(4, CLASSES)).double()


NETS |= {"first": first, "dead": dead, "top_one": top_one, "tied": tied, "cut": cut}

OPTIMIZERS: dict[str, Any] = {
    "momentum": (
        lambda: SGD(0.1, momentum=0.9, weight_decay=0.1),
        lambda params: torch.optim.SGD(params, 0.1, momentum=0.9, weight_decay=0.1),
    ),
    "adagrad": (
        lambda: AdaGrad(0.05, eps=1e-8, weight_decay=0.1),
        lambda params: torch.optim.Adagrad(params, 0.05, eps=1e-8, weight_decay=0.1),
    ),
}
OPTIMIZERS["our AdamW"] = (
    lambda: AdamW(0.02, weight_decay=0.1, groups=[("*bias", {"weight_decay": 0.1})]),
    lambda params: torch.optim.AdamW(params, 0.02, weight_decay=0.1),
)
for _name in ("AdamW", "NAdam", "Rprop"):
    _factory = partial(getattr(torch.optim, _name), lr=0.02)
    OPTIMIZERS[_name] = (partial(TorchOptimizer, _factory), _factory)


def loop(module, optimizer):
    """A plain loop of torch."""
    moved = optimizer(list(module.parameters()))
    for batch in batches():
        moved.zero_grad()
        loss = tnn.functional.cross_entropy(module(torch.tensor(batch.x)), torch.tensor(batch.y))
        loss.backward()
        moved.step()
    return np.concatenate([weight.detach().numpy().ravel() for weight in module.parameters()])


@cache
def tried(name):
    return TorchModel(NETS[name](), seed=None, input_shape=(4,))


def model(name):
    return copy.deepcopy(tried(name))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", NETS)
@pytest.mark.workers(1)
def test_plain_training_equals_torchs_loop(name, optimizer):
    ours, theirs = OPTIMIZERS[optimizer]
    strategy = Sequential(model(name), ours())
    for batch in batches():
        strategy.step(batch)
    module = NETS[name]()
    np.testing.assert_allclose(strategy.weights(), loop(module, theirs), rtol=0, atol=1e-12)


@pytest.mark.workers(1)
def test_they_are_named():
    unused = {
        "experts": ("2.head.weight", "2.head.bias"),
        "first": ("experts.head.weight", "experts.head.bias"),
        "detached": ("0.weight", "0.bias"),
        "dead": ("2.module.0.experts.head.weight", "2.module.0.experts.head.bias"),
        "tied": ("1.weight",),
        "cut": (),
    }
    assert {name: model(name).unused for name in unused} == unused


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("kind", EXACT)
def test_every_strategy_leaves_them_as_they_are(comm, kind, name):
    ours, theirs = OPTIMIZERS[{"first": "AdamW", "top_one": "our AdamW"}.get(name, "momentum")]
    try:
        strategy = EXACT[kind](model(name), ours(), comm)
    except Refused as refusal:
        pytest.skip(str(refusal))
    for batch in batches():
        strategy.step(batch)
    expected = loop(NETS[name](), theirs)
    np.testing.assert_allclose(strategy.weights(), expected, rtol=0, atol=1e-12)
    strategy.close()


def test_micro_batches_and_parts_of_which_some_use_a_parameter(comm):
    for make in (
        lambda: DataParallel(model("first"), OPTIMIZERS["momentum"][0](), comm, accumulate=3),
        lambda: Pipeline(model("experts"), OPTIMIZERS["momentum"][0](), comm, micro_batches=3),
    ):
        try:
            strategy = make()
        except Refused as refusal:
            pytest.skip(str(refusal))
        name = "experts" if isinstance(strategy, Pipeline) else "first"
        for batch in batches():
            strategy.step(batch)
        expected = loop(NETS[name](), OPTIMIZERS["momentum"][1])
        np.testing.assert_allclose(strategy.weights(), expected, rtol=0, atol=1e-12)
        strategy.close()


@pytest.mark.workers(1)
def test_they_are_named_once(caplog):
    torch.manual_seed(1)

    class Two(tnn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.never_used = tnn.Linear(4, 3), tnn.Linear(4, 3)

        def forward(self, x):
            return self.a(x)

    for _ in range(2):
        whole = TorchModel(Two(), input_shape=(4,))
        Sequential(whole, SGD(0.1))
        Sequential(whole.converted("float64"), SGD(0.1))
    (line,) = [each for each in caplog.messages if "no gradient" in each]
    assert "never_used.weight, never_used.bias" in line


@pytest.mark.workers(1)
def test_a_parameter_that_lacks_a_gradient_unexpectedly_is_named(caplog):
    class Rare(tnn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.rare = tnn.Linear(4, 3), tnn.Linear(4, 3)

        def forward(self, x):
            usual = (x[:, 0] < 1e6).any()
            return self.a(x) + self.rare(x) * (x[:, :1] < 1e6) if usual else self.a(x)

    strategy = Sequential(TorchModel(Rare(), input_shape=(4,)), SGD(0.1))
    for x in (np.ones((2, 4)), np.full((2, 4), 1e7), np.full((2, 4), 1e7)):
        strategy.step(Batch(x, np.zeros(2, int)))
    assert [each.split()[0] for each in caplog.messages] == ["rare.weight", "rare.bias"]


@pytest.mark.parametrize("outer", [None, lambda: SGD(0.7, momentum=0.9, weight_decay=0.1)])
def test_averages_leave_what_no_rank_has_moved(comm, outer):
    """Shards are uneven, and a mean of equal numbers would be rounded."""
    start = model("experts").params.copy()
    decaying = OPTIMIZERS["momentum"][0]
    strategy = LocalSGD(model("experts"), decaying(), comm, 2, outer=outer and outer())
    for batch in batches():
        strategy.step(batch)
    unused = np.zeros(len(start), bool)
    for each in strategy.parameters:
        if each.name in strategy.model.unused:
            unused[each.start : each.stop] = True
    weights = strategy.weights()
    np.testing.assert_array_equal(weights[unused], start[unused])
    assert (weights[~unused] != start[~unused]).all()


class Nothing(tnn.Module):
    """Multiplies by -0, so that the gradient of its input is -0 where that of its output is > 0."""

    def __init__(self):
        super().__init__()
        self.bias = tnn.Parameter(torch.zeros(4))

    def forward(self, x):
        return self.bias + x * -0.0


@pytest.mark.workers(1, 2)
@pytest.mark.parametrize("kind", ["buckets", "stages"])
def test_a_gradient_of_negative_zeros_is_not_cut_off(comm, kind):
    torch.manual_seed(0)
    module = tnn.Sequential(tnn.Linear(4, 4), Cut(), Nothing()).double()
    with torch.no_grad():
        module[0].bias += 10  # all rows are above 0
    net = TorchModel(module, seed=None, input_shape=(4,), loss=MeanSquaredError())
    start, optimizer = net.params[:16].copy(), SGD(0.1, weight_decay=0.1)
    if kind == "buckets":
        strategy = DataParallel(net, optimizer, comm, buckets=2)
    else:
        strategy = Pipeline(net, optimizer, comm, cuts=[1][: comm.size - 1])
    strategy.step(Batch(np.ones((2, 4)), np.full((2, 4), -100.0)))
    np.testing.assert_allclose(strategy.weights()[:16], 0.99 * start, rtol=1e-14)
    strategy.close()
