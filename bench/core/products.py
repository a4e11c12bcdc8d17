"""The matrix products of a training step, and nothing else: what no program can do without."""

from collections.abc import Callable, Sequence

import numpy as np

import nn


def matrix_products(sizes: Sequence[int], rows: int) -> Callable[[], None]:
    """Make a function that computes the products of a step of a fully connected net in numpy.

    Each uses earlier results, and gradients have memory of their own, as in training.

    Args:
        sizes: inputs, hidden widths, classes.
        rows: of the batch.
    """
    x = np.random.default_rng(0).random((rows, sizes[0]), np.float32)
    linears = [layer for layer in nn.mlp(sizes).layers if layer.params]

    def products() -> None:
        inputs = [x]
        for layer in linears:
            inputs.append(inputs[-1] @ layer.params[0].T)
        dy = inputs.pop()
        for layer in reversed(linears):
            np.matmul(dy.T, inputs.pop(), out=layer.grads[0])
            if inputs:
                dy = dy @ layer.params[0]

    return products
