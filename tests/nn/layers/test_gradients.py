"""The gradient of every layer equals three independent oracles.

Complex-step differentiation (Squire and Trapp, 1998) does not subtract, so it has no cancellation:
it checks holomorphic layers to 1e-12. Central differences check the other layers, and torch's
autograd checks all.
"""

import numpy as np
import pytest
import torch

from nn import cross_entropy
from nn.layers import Conv2d, Flatten, Linear, MaxPool2d, ReLU, Sigmoid, Tanh

pytestmark = pytest.mark.workers(1)

HOLOMORPHIC = [
    (Linear(5, 4), (5,)),
    (Sigmoid(), (6,)),
    (Tanh(), (6,)),
    (Flatten(), (2, 3, 4)),
    (Conv2d(2, 3, 3), (2, 6, 5)),
    (Conv2d(1, 2, 2, stride=2), (1, 5, 6)),
    (Conv2d(3, 2, 3, stride=2, padding=1), (3, 6, 7)),
    (Conv2d(2, 4, 1, padding=2), (2, 3, 3)),
]
KINKED = [
    (ReLU(), (7,)),
    (ReLU(in_place=True), (7,)),
    (MaxPool2d(2), (2, 5, 6)),
    (MaxPool2d(3, stride=2), (2, 7, 7)),
    (MaxPool2d(2, stride=1), (1, 4, 4)),
]


def torch_twin(layer):
    """The torch function of the same name, as a function of (x, *parameters)."""
    f = torch.nn.functional
    match layer:
        case Linear():
            return f.linear
        case Conv2d():
            return lambda x, w, b: f.conv2d(x, w, b, layer.stride, layer.padding)
        case MaxPool2d():
            return lambda x: f.max_pool2d(x, layer.size, layer.stride)
        case Flatten():
            return lambda x: x.flatten(1)
        case ReLU():
            return torch.relu
        case Sigmoid():
            return torch.sigmoid
        case Tanh():
            return torch.tanh


def bound(layer, rng, dtype="float64"):
    """Bind random parameters to the layer; return (parameter vector, gradient vector)."""
    params = rng.standard_normal(layer.n_params).astype(dtype)
    grads = np.full(layer.n_params, 7.0, dtype)  # must be overwritten
    layer.bind(params, grads)
    return params, grads


def analytic(layer, x, dy, params_grads, **options):
    _, ctx = layer.forward(x.copy())
    dx = layer.backward(dy.copy(), ctx, **options)
    return dx, params_grads[1].copy()


def random_case(layer, shape, seed=0):
    rng = np.random.default_rng(seed)
    vectors = bound(layer, rng)
    x = rng.standard_normal((3, *shape))
    dy = rng.standard_normal((3, *layer.row_shape(shape)))
    return vectors, x, dy


@pytest.mark.parametrize(("layer", "shape"), HOLOMORPHIC, ids=repr)
def test_complex_step(layer, shape):
    (params, grads), x, dy = random_case(layer, shape)
    dx, dparams = analytic(layer, x, dy, (params, grads))
    h = 1e-30

    def derivative(at_x, at_params):
        layer.bind(at_params, np.empty_like(at_params))
        return (layer.forward(at_x)[0] * dy).sum().imag / h

    for i in range(x.size):
        step = x.astype(complex)
        step.flat[i] += 1j * h
        expected = derivative(step, params.astype(complex))
        np.testing.assert_allclose(dx.ravel()[i], expected, rtol=1e-12, atol=1e-13)
    for i in range(params.size):
        step = params.astype(complex)
        step[i] += 1j * h
        expected = derivative(x.astype(complex), step)
        np.testing.assert_allclose(dparams[i], expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(("layer", "shape"), HOLOMORPHIC + KINKED, ids=repr)
def test_central_differences_on_every_coordinate(layer, shape):
    (params, grads), x, dy = random_case(layer, shape)
    dx, dparams = analytic(layer, x, dy, (params, grads))
    h = 1e-6

    for vector, gradient in ((x, dx), (params, dparams)):
        for i in range(vector.size):
            kept = vector.flat[i]
            values = []
            for sign in (1, -1):
                vector.flat[i] = kept + sign * h
                values.append((layer.forward(x.copy())[0] * dy).sum())
            vector.flat[i] = kept
            expected = (values[0] - values[1]) / (2 * h)
            np.testing.assert_allclose(gradient.ravel()[i], expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("layer", "shape"), HOLOMORPHIC + KINKED, ids=repr)
def test_torch_autograd(layer, shape):
    (params, grads), x, dy = random_case(layer, shape)
    y, _ = layer.forward(x.copy())
    dx, dparams = analytic(layer, x, dy, (params, grads))
    inputs = [torch.from_numpy(a).requires_grad_() for a in (x, *layer.params)]
    output = torch_twin(layer)(*inputs)
    np.testing.assert_allclose(y, output.detach().numpy(), rtol=1e-10, atol=1e-12)
    expected = torch.autograd.grad(output, inputs, torch.from_numpy(dy))
    np.testing.assert_allclose(dx, expected[0].numpy(), rtol=1e-10, atol=1e-12)
    flat = np.concatenate([np.empty(0), *(e.numpy().ravel() for e in expected[1:])])
    np.testing.assert_allclose(dparams, flat, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("layer", "shape"), HOLOMORPHIC + KINKED, ids=repr)
def test_add_adds_and_need_dx_skips(layer, shape):
    vectors, x, dy = random_case(layer, shape)
    _, once = analytic(layer, x, dy, vectors)
    _, twice = analytic(layer, x, dy, vectors, add=True)
    np.testing.assert_allclose(twice, 2 * once, rtol=1e-14)
    if layer.n_params:
        assert analytic(layer, x, dy, vectors, need_dx=False)[0] is None


@pytest.mark.parametrize(("layer", "shape"), HOLOMORPHIC + KINKED, ids=repr)
def test_no_rows_give_no_gradient(layer, shape):
    vectors, _, _ = random_case(layer, shape)
    x = np.empty((0, *shape))
    y, ctx = layer.forward(x)
    assert y.shape == (0, *layer.row_shape(shape))
    dx = layer.backward(np.empty_like(y), ctx)
    assert dx.shape == x.shape
    assert not vectors[1].any()


def test_the_first_of_equal_elements_receives_the_gradient():
    layer = MaxPool2d(2)
    layer.bind(np.empty(0), np.empty(0))
    _, ctx = layer.forward(np.ones((1, 1, 2, 2)))
    dx = layer.backward(np.full((1, 1, 1, 1), 5.0), ctx)
    np.testing.assert_array_equal(dx[0, 0], [[5, 0], [0, 0]])


# The loss


def test_cross_entropy_against_torch_and_complex_step():
    rng = np.random.default_rng(0)
    logits, labels, n = rng.standard_normal((6, 4)), rng.integers(0, 4, 6), 11
    loss, dlogits = cross_entropy(logits, labels, n)
    z = torch.from_numpy(logits).requires_grad_()
    expected = torch.nn.functional.cross_entropy(z, torch.from_numpy(labels), reduction="sum") / n
    np.testing.assert_allclose(loss, expected.item(), rtol=1e-13)
    expected.backward()
    np.testing.assert_allclose(dlogits, z.grad.numpy(), rtol=1e-10, atol=1e-15)
    for i in range(logits.size):
        step = logits.astype(complex)
        step.flat[i] += 1e-30j
        derivative = cross_entropy(step, labels, n)[0].imag / 1e-30
        np.testing.assert_allclose(dlogits.ravel()[i], derivative, rtol=1e-12, atol=1e-16)


def test_a_large_row_does_not_drown_the_others():
    logits = np.array([[1000.0, 0.0], [-1000.0, -1001.0]])
    loss, dlogits = cross_entropy(logits, np.array([0, 0]), 2)
    np.testing.assert_allclose(loss, np.log1p(np.exp(-1)) / 2, rtol=1e-12)
    np.testing.assert_allclose(dlogits[1], np.array([-1, 1]) / (2 * (1 + np.e)), rtol=1e-12)


def test_shards_sum_to_the_batch():
    rng = np.random.default_rng(0)
    logits, labels = rng.standard_normal((7, 3)), rng.integers(0, 3, 7)
    whole = cross_entropy(logits, labels, 7)[0]
    parts = [cross_entropy(logits[a:b], labels[a:b], 7)[0] for a, b in ((0, 5), (5, 5), (5, 7))]
    np.testing.assert_allclose(sum(parts), whole, rtol=1e-14)


@pytest.mark.parametrize(
    ("logits", "labels", "n", "message"),
    [
        (np.zeros((2, 3)), np.array([0, 3]), 2, "labels from 0 to 2"),
        (np.zeros((2, 3)), np.array([0, -1]), 2, "labels from 0 to 2"),
        (np.zeros((2, 3)), np.array([0]), 2, r"\(rows, classes\)"),
        (np.zeros(3), np.array([0]), 2, r"\(rows, classes\)"),
        (np.zeros((2, 3)), np.array([0, 1]), 0, "at least 1"),
        (np.zeros((2, 3)), np.array([0.0, 1.0]), 2, "expected integers"),
        (np.zeros((2, 3)), np.array([True, False]), 2, "expected integers"),
    ],
)
def test_bad_losses_say_what_was_expected(logits, labels, n, message):
    with pytest.raises(ValueError, match=message):
        cross_entropy(logits, labels, n)
