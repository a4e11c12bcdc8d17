"""The fully connected layer."""

import math

import numpy as np
from numpy.typing import NDArray

from nn.arguments import as_int
from nn.layers.base import Layer, write_product, write_row_sum


class Linear(Layer):
    """y = x W^T + b with W of shape (outputs, inputs), as in torch.nn.Linear.

    Args:
        inputs: features of an input row.
        outputs: features of an output row; may be 0 (an empty tensor-parallel shard).
        gain: weights begin as normal numbers of standard deviation gain / sqrt(inputs). Use sqrt(2)
            before a ReLU (He et al., "Delving deep into rectifiers", 2015), 1 otherwise. Biases
            begin at 0.
    """

    def __init__(self, inputs: int, outputs: int, gain: float = math.sqrt(2)):
        self.inputs, self.outputs = as_int("inputs", inputs, 0), as_int("outputs", outputs, 0)
        self.gain = gain
        self.shapes = ((self.outputs, self.inputs), (self.outputs,))

    def init(self, rng):
        std = self.gain / math.sqrt(max(self.inputs, 1))
        return rng.normal(0, std, self.shapes[0]), np.zeros(self.outputs)

    def row_shape(self, shape):
        if shape != (self.inputs,):
            raise ValueError(f"{self} cannot take rows of shape {shape}: expected {self.inputs}")
        return (self.outputs,)

    def forward(self, x):
        weight, bias = self.params
        y = x @ weight.T
        y += bias
        return y, x

    def backward(self, dy, ctx, need_dx=True, add=False):
        write_product(dy.T, ctx, self.grads[0], add)
        write_row_sum(dy, self.grads[1], add)
        return self.input_gradient(dy, ctx) if need_dx else None

    def input_gradient(self, dy: NDArray, ctx: NDArray) -> NDArray:
        """What `backward` returns, without the gradient of the parameters."""
        return dy @ self.params[0]

    def __repr__(self) -> str:
        return f"Linear({self.inputs}, {self.outputs})"
