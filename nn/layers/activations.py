"""Layers without parameters that treat every element alike: activations, and Flatten."""

import math
from collections.abc import Sequence

import numpy as np

from nn.layers.base import Layer


class ReLU(Layer):
    """max(x, 0), element by element.

    Args:
        in_place: overwrite the input, which saves one array in the cache. Safe only behind a layer
            whose `backward` does not read its own output, such as Linear and Conv2d.
    """

    def __init__(self, in_place: bool = False):
        self.in_place = in_place

    def forward(self, x):
        y = np.maximum(x, 0, out=x if self.in_place else None)
        return y, y

    def backward(self, dy, ctx, need_dx=True, add=False):
        dy *= ctx > 0
        return dy


class Tanh(Layer):
    """The hyperbolic tangent, element by element."""

    def forward(self, x):
        y = np.tanh(x)
        return y, y

    def backward(self, dy, ctx, need_dx=True, add=False):
        dy *= 1 - ctx * ctx
        return dy


class Sigmoid(Layer):
    """1 / (1 + exp(-x)), computed as (1 + tanh(x / 2)) / 2, which does not overflow."""

    def forward(self, x):
        y = np.tanh(x / 2)
        y += 1
        y /= 2
        return y, y

    def backward(self, dy, ctx, need_dx=True, add=False):
        dy *= ctx * (1 - ctx)
        return dy


class Flatten(Layer):
    """Rows of any shape as vectors, in (channels, height, width) order."""

    def row_shape(self, shape):
        return (math.prod(shape),)

    def forward(self, x):
        return x.reshape(len(x), math.prod(x.shape[1:])), x.shape

    def backward(self, dy, ctx, need_dx=True, add=False):
        return dy.reshape(ctx)


def check_in_place(layers: Sequence[Layer]) -> None:
    """Refuse layers that would overwrite the rows they are given.

    A Flatten only shows the rows in another shape, so a ReLU behind it is refused too.

    Raises:
        ValueError: the first layer that is not a Flatten is a ReLU that works in place.
    """
    first = next((layer for layer in layers if not isinstance(layer, Flatten)), None)
    if isinstance(first, ReLU) and first.in_place:
        raise ValueError(
            "ReLU(in_place=True) comes first and would overwrite the rows that it is given: "
            "expected it behind a Linear or Conv2d"
        )
