"""Small nets by name, to try every combination on: every kind of nn, and some odd ones."""

import numpy as np

from nn import Model, cnn, lenet, mlp
from nn.layers import Conv2d, Flatten, Layer, Linear, ReLU, Tanh
from nn.layers.embedding import EmbeddingBag
from nn.layers.residual import Residual


class Scale(Layer):
    """y = a x, elementwise: a layer with parameters that no strategy knows."""

    def __init__(self, features: int):
        self.shapes = ((features,),)

    def init(self, rng):
        return (rng.normal(1, 0.1, self.shapes[0]),)

    def forward(self, x):
        return x * self.params[0], x

    def backward(self, dy, ctx, need_dx=True, add=False):
        total = (dy * ctx).sum(axis=0)
        self.grads[0][...] = self.grads[0] + total if add else total
        return dy * self.params[0]


class Reversed(Layer):
    """A layer without parameters that mixes features: it reverses them."""

    def forward(self, x):
        return x[:, ::-1], None

    def backward(self, dy, ctx, need_dx=True, add=False):
        return np.ascontiguousarray(dy[:, ::-1])


def _block(width: int) -> Residual:
    return Residual(Linear(width, width), Tanh(), Linear(width, width))


class Reused:
    """A model that takes long to build, reset at each call and with new memory.

    It is the same object each time, so do not use the one before any more.
    """

    def __init__(self, model: Model):
        self._model, self._start = model, model.params.copy()

    def __call__(self) -> Model:
        self._model.bind(self._start.copy(), np.zeros_like(self._start))
        return self._model


def small_mlp() -> Model:
    """Build the net for tests that need only one: no number of ranks divides all its widths."""
    return mlp([6, 7, 5, 4], dtype="float64", seed=1)


NETS = {
    "one_layer": lambda: mlp([5, 3], dtype="float64", seed=1),
    "two": lambda: mlp([5, 6, 3], dtype="float64", seed=1),
    "three_sigmoid": lambda: mlp([5, 7, 2, 4], activation="sigmoid", dtype="float64", seed=1),
    "four_tanh": lambda: mlp([6, 5, 9, 3, 4], activation="tanh", dtype="float64", seed=1),
    "five_narrow": lambda: mlp([4, 3, 2, 5, 3, 3], dtype="float64", seed=1),
    "cnn": lambda: cnn(3, (1, 10, 10), "float64", seed=1),
    "lenet": lambda: lenet(3, (1, 12, 12), "float64", seed=1),
    "residual": lambda: Model(
        [Linear(5, 4), Tanh(), _block(4), _block(4), Linear(4, 3)], "float64", seed=1
    ),
    "strangers": lambda: Model(
        [Linear(5, 6), Scale(6), Linear(6, 5), Linear(5, 4), Reversed(), Scale(4)], "float64", 1
    ),
    "words": lambda: Model(
        [EmbeddingBag(9, 5, std=1.0), Tanh(), Linear(5, 4), Tanh(), Linear(4, 3)],
        "float64",
        seed=1,
        input_shape=(6,),
    ),
    "convolutions_only": lambda: Model(
        [Conv2d(2, 3, 2), ReLU(), Conv2d(3, 2, 2, padding=1), Flatten()],
        "float64",
        seed=1,
        input_shape=(2, 3, 4),
    ),
}
DEEP = ("four_tanh", "five_narrow", "cnn", "lenet")
