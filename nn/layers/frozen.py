"""Frozen layers: parameters that a model computes with, and that training leaves as they are."""

import copy

import numpy as np
from numpy.typing import NDArray

from nn.layers.base import Layer
from nn.layers.convolution import Conv2d
from nn.layers.linear import Linear


class Frozen(Layer):
    """A layer whose parameters are no part of the model's vectors, so that nothing moves them.

    It passes the gradient on and computes none for its parameters.

    Args:
        layer: a layer with parameters.
        params: their values, a flat vector, (layer.n_params,), in the order of `layer.shapes`; it
            is copied. By default they are drawn with those of the other layers.

    Raises:
        TypeError: `layer` is not a Layer.
        ValueError: the layer has no parameters, or params are of another length.
    """

    def __init__(self, layer: Layer, params: NDArray | None = None):
        if not isinstance(layer, Layer):
            raise TypeError(f"layer is {type(layer).__name__}: expected one of nn.layers")
        if not layer.shapes:
            raise ValueError(f"{layer} has no parameters to freeze: use it as it is")
        self.layer, self._draws = layer, params is None
        self.only_first, self.rows_each = layer.only_first, layer.rows_each
        self._values = None if params is None else np.array(params, np.float64)
        if self._values is not None and self._values.shape != (layer.n_params,):
            raise ValueError(
                f"params of shape {self._values.shape}: {layer} has {layer.n_params} parameters"
            )

    def __copy__(self):
        """A copy that shares the frozen values."""
        twin = object.__new__(type(self))
        twin.__dict__.update(vars(self))
        twin.layer = copy.copy(self.layer)
        return twin

    @property
    def frozen(self):
        """The parameters of the layer by name, as the layer uses them."""
        return dict(zip(self.layer.names, self.layer.params)) | self.layer.frozen

    def init(self, rng):
        values = self.layer.init(rng)
        if self._draws:
            self._values = np.concatenate([value.ravel() for value in values])
        return ()

    def bind(self, params, grads):
        if self._values is None:
            raise ValueError(
                f"{self} has no values, and a model that is given params=... draws none: expected "
                "Frozen(layer, params)"
            )
        if params.dtype.kind == "f":
            self._values = self._values.astype(params.dtype, copy=False)
        values = self._values.astype(params.dtype, copy=False)
        if type(self.layer) in (Linear, Conv2d):
            scratch = np.broadcast_to(grads.dtype.type(0), values.shape)  # takes no memory
        else:  # the layer computes the gradient of its parameters all the same
            scratch = np.empty(values.shape, grads.dtype)
        self.layer.bind(values, scratch)

    def row_shape(self, shape):
        return self.layer.row_shape(shape)

    def forward(self, x):
        return self.layer.forward(x)

    def backward(self, dy, ctx, need_dx=True, add=False):
        if not need_dx:
            return None
        if isinstance(self.layer, Linear | Conv2d) and type(self.layer) in (Linear, Conv2d):
            return self.layer.input_gradient(dy, ctx)
        return self.layer.backward(dy, ctx)

    def __repr__(self) -> str:
        return f"Frozen({self.layer})"
