"""The residual block has the gradient of complex-step differentiation, and refuses misuse."""

import copy

import numpy as np
import pytest

from nn.layers import Flatten, Linear, ReLU, Tanh
from nn.layers.residual import Residual

pytestmark = pytest.mark.workers(1)


def block():
    return Residual(Tanh(), Linear(4, 6), Tanh(), Linear(6, 4))


def ends_in_an_activation():
    """Its last layer overwrites the gradient that it is given, which the sum still needs."""
    return Residual(Linear(4, 4), Tanh())


def loss(make, params, x, dy):
    layer = make()
    layer.bind(params, np.zeros_like(params))
    return (layer.forward(x)[0] * dy).sum()


@pytest.mark.parametrize("make", [block, ends_in_an_activation])
@pytest.mark.parametrize("add", [False, True])
def test_gradient_by_complex_step(add, make):
    rng = np.random.default_rng(0)
    layer = make()
    params, x, dy = (rng.standard_normal(n) for n in (layer.n_params, (3, 4), (3, 4)))
    grads = np.full_like(params, 7.0)
    layer.bind(params, grads)
    _, ctx = layer.forward(x)
    dx = layer.backward(dy.copy(), ctx, add=add)
    step = 1e-30

    def slope(i, vector):
        moved = vector.astype(complex)
        moved.flat[i] += step * 1j
        args = (moved, x, dy) if vector is params else (params.astype(complex), moved, dy)
        return loss(make, *args).imag / step

    expected = [slope(i, params) for i in range(params.size)]
    np.testing.assert_allclose(grads - 7 * add, expected, rtol=1e-11, atol=1e-12)
    expected = np.reshape([slope(i, x) for i in range(x.size)], x.shape)
    np.testing.assert_allclose(dx, expected, rtol=1e-12, atol=1e-13)


def test_first_layer_skips_the_gradient_of_its_input():
    layer = block()
    layer.bind(np.ones(layer.n_params), np.zeros(layer.n_params))
    y, ctx = layer.forward(np.ones((2, 4)))
    assert layer.backward(y, ctx, need_dx=False) is None
    assert np.abs(layer.grads[0]).min() > 0


def test_a_copy_has_layers_of_its_own():
    """Strategies copy layers and bind the copies to other memory."""
    layer = block()
    layer.bind(np.zeros(layer.n_params), np.zeros(layer.n_params))
    other = copy.copy(layer)
    other.bind(np.ones(layer.n_params), np.ones(layer.n_params))
    assert layer.layers[1].params[0].max() == 0


def test_says_what_was_expected():
    with pytest.raises(ValueError, match="expected at least one"):
        Residual()
    with pytest.raises(ValueError, match="in_place=True"):
        Residual(Flatten(), ReLU(in_place=True))
    with pytest.raises(ValueError, match=r"rows of shape \(3,\) of \(4,\): expected the same"):
        Residual(Linear(4, 3)).row_shape((4,))
