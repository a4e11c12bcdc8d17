"""Torch nets that several tests of `nn.torch` train, and plain training of each."""

from functools import cache

import pytest
import torch
from torch import nn as tnn

from nn.torch.model import TorchModel
from strategies import Sequential
from tests.support.exact import EXACT, OF_OWN_LOSS
from tests.support.optimizers import momentum
from tests.support.oracles import Recorded, random_batches
from tests.support.small_nets import Reused

torch.set_num_threads(1)


class Block(tnn.Module):
    """x + f(x) as one layer."""

    def __init__(self, width):
        super().__init__()
        self.f = tnn.Sequential(
            tnn.ReLU(inplace=True), tnn.Linear(width, width), tnn.LayerNorm(width)
        )

    def forward(self, x):
        return x + self.f(x)


class Detached(tnn.Module):
    """A layer that lets no gradient through, so earlier layers have a gradient of 0."""

    def forward(self, x):
        return x.detach() + 1


class Constant(tnn.Module):
    """A layer with parameters whose output does not depend on its input."""

    def __init__(self):
        super().__init__()
        self.line = tnn.Linear(1, 4)

    def forward(self, x):
        return self.line(x.new_ones(len(x), 1))


def without_gradient(module):
    """A builder of a net in which `module` keeps the gradient from the first layer."""
    return lambda: tnn.Sequential(tnn.Linear(5, 4), module(), tnn.Tanh(), tnn.Linear(4, 3))


def repeated():
    """A net with modules that stand twice, in a Sequential and in a Sequential inside it."""
    relu, flat = tnn.ReLU(), tnn.Flatten()
    inner = tnn.Sequential(tnn.Linear(4, 4), relu, flat)
    return tnn.Sequential(tnn.Linear(5, 4), relu, inner, tnn.Linear(4, 4), relu, flat)


class Opaque(tnn.Module):
    """A module as one layer that cannot be opened."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x)


NETS = {
    "linear": (
        lambda: tnn.Sequential(
            *(tnn.Linear(5, 6), tnn.Tanh(), tnn.Linear(6, 4, bias=False), tnn.ReLU(inplace=True)),
            *(tnn.Linear(4, 2), tnn.GELU(), tnn.Linear(2, 3)),  # fewer neurons than ranks
        ),
        (5,),
    ),
    "conv": (
        lambda: tnn.Sequential(
            *(tnn.Conv2d(2, 3, 3, padding=1), tnn.MaxPool2d(2), tnn.ReLU()),
            *(tnn.Conv2d(3, 4, 2), tnn.Tanh(), tnn.Flatten(), tnn.Linear(16, 3)),
        ),
        (2, 6, 6),
    ),
    "residual": (
        lambda: tnn.Sequential(tnn.Linear(5, 4), Block(4), Block(4), tnn.Linear(4, 3)),
        (5,),
    ),
    "repeated": (repeated, (5,)),
    "detached": (without_gradient(Detached), (5,)),
    "constant": (without_gradient(Constant), (5,)),
}


every_net = pytest.mark.parametrize("net", NETS)


STRATEGIES = EXACT | OF_OWN_LOSS


every_strategy = pytest.mark.parametrize("strategy", STRATEGIES)


def build(net="linear", **arguments):
    make, shape = NETS[net]
    return TorchModel(make(), dtype="float64", seed=1, input_shape=shape, **arguments)


@cache
def reused(net):
    return Reused(build(net))


@cache
def trained(net):
    """Recorded plain training. 7 rows make uneven shards, and 2 rows leave some shards empty."""
    oracle = Sequential(build(net), momentum())
    return Recorded(
        oracle, [b for rows in (7, 2) for b in random_batches(oracle.model, rows, steps=2)]
    )
