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

from nn import SGD, AdaGrad, Batch
from nn.torch import TorchModel, TorchOptimizer
from strategies import DataParallel, Pipeline, Sequential
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


NETS |= {"first": first, "dead": dead}

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
    unused = {
        "experts": "2.head.",
        "first": "experts.head.",
        "detached": "0.",
        "dead": "2.module.0.experts.head.",
    }[name]
    assert strategy.model.unused == (unused + "weight", unused + "bias")


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("kind", EXACT)
def test_every_strategy_leaves_them_as_they_are(comm, kind, name):
    ours, theirs = OPTIMIZERS["AdamW" if name == "first" else "momentum"]
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
