"""The bare products of a step are those that training computes, and all of them."""

import numpy as np
import pytest

from bench.core import products
from bench.core.products import matrix_products
from nn import mlp

pytestmark = pytest.mark.workers(1)


def test_each_layer_has_its_products(monkeypatch):
    """The net is linear without ReLU, so all products are known from its weights."""
    made = []
    monkeypatch.setattr(products.nn, "mlp", lambda sizes: made.append(mlp(sizes)) or made[-1])
    matrix_products([6, 5, 4, 3], 7)()
    first, second, third = (layer for layer in made[0].layers if layer.params)
    x = np.random.default_rng(0).random((7, 6), np.float32)
    h1 = x @ first.params[0].T
    h2 = h1 @ second.params[0].T
    z = h2 @ third.params[0].T
    d2 = z @ third.params[0]
    np.testing.assert_allclose(third.grads[0], z.T @ h2, rtol=1e-5)
    np.testing.assert_allclose(second.grads[0], d2.T @ h1, rtol=1e-5)
    np.testing.assert_allclose(first.grads[0], (d2 @ second.params[0]).T @ x, rtol=1e-5)
