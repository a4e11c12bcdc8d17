"""Residual blocks, which make deep narrow nets trainable."""

import copy
from itertools import accumulate

import numpy as np

from nn.layers.activations import check_in_place
from nn.layers.base import Layer


class Residual(Layer):
    """y = x + f(x), where f is a chain of layers (He et al., "Deep residual learning", 2016).

    Args:
        layers: the layers of f. Its output rows must have the shape of its input rows.

    Raises:
        ValueError: no layers, a first layer that overwrites its input, or a layer that has no
            input gradient.
    """

    def __init__(self, *layers: Layer):
        if not layers:
            raise ValueError("a residual block of no layers: expected at least one")
        check_in_place(layers)
        for layer in layers:
            if layer.only_first:
                raise ValueError(f"{layer} passes no gradient on: it cannot be in a residual block")
        self.layers = layers
        self.shapes = tuple(shape for layer in layers for shape in layer.shapes)

    @property
    def names(self):
        return tuple(f"{i}.{name}" for i, each in enumerate(self.layers) for name in each.names)

    @property
    def frozen(self):
        return {
            f"{i}.{name}": value
            for i, each in enumerate(self.layers)
            for name, value in each.frozen.items()
        }

    def __copy__(self):
        twin = object.__new__(type(self))
        twin.__dict__.update(vars(self))
        twin.layers = tuple(map(copy.copy, self.layers))
        return twin

    def init(self, rng):
        return tuple(value for layer in self.layers for value in layer.init(rng))

    def bind(self, params, grads):
        ends = [0, *accumulate(layer.n_params for layer in self.layers)]
        for layer, lo, hi in zip(self.layers, ends, ends[1:]):
            layer.bind(params[lo:hi], grads[lo:hi])
        self.params = tuple(view for layer in self.layers for view in layer.params)
        self.grads = tuple(view for layer in self.layers for view in layer.grads)

    def row_shape(self, shape):
        out = shape
        for layer in self.layers:
            out = layer.row_shape(out)
        if out != shape:
            raise ValueError(f"{self} makes rows of shape {out} of {shape}: expected the same")
        return out

    def forward(self, x):
        y, contexts = x, []
        for layer in self.layers:
            y, ctx = layer.forward(y)
            contexts.append(ctx)
        return x + y, contexts

    def backward(self, dy, ctx, need_dx=True, add=False):
        inner = np.array(dy) if need_dx else dy  # layers may overwrite their dy
        for i in reversed(range(len(self.layers))):
            inner = self.layers[i].backward(inner, ctx[i], need_dx or i > 0, add)
        return dy + inner if need_dx else None

    def __repr__(self) -> str:
        return f"Residual({', '.join(map(repr, self.layers))})"
