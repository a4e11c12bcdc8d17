"""Losses: equal to torch's, in whole and in parts, and right by complex-step differentiation."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nn import Batch, cross_entropy, mlp
from nn.batch import bounds
from nn.loss import BinaryCrossEntropy, CrossEntropy, MeanSquaredError

pytestmark = pytest.mark.workers(1)

CLASSES = 4
CLASS_WEIGHTS = [0.5, 0.0, 2.0, 1.25]


@st.composite
def cross_entropies(draw):
    settings = {
        "label_smoothing": draw(st.sampled_from([0.0, 0.1, 0.7])),
        "ignore_index": draw(st.sampled_from([None, -100, 2])),
        "class_weights": draw(st.sampled_from([None, CLASS_WEIGHTS])),
    }
    rows = draw(st.integers(1, 9))
    pixels = draw(st.sampled_from([(), (2,), (2, 3)]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    labels = rng.integers(0, CLASSES, (rows, *pixels))
    if settings["ignore_index"] == -100:
        labels[rng.random(labels.shape) < 0.4] = -100
    weights = draw(st.sampled_from([None, rng.random(rows)]))
    return settings, rng.standard_normal((rows, CLASSES, *pixels)), labels, weights


def torchs(settings, outputs, labels, weights):
    """The loss of torch's mean, weighted by rows where there are weights, and its gradient."""
    z = torch.from_numpy(outputs).requires_grad_()
    y = torch.from_numpy(labels)
    class_weights = settings["class_weights"]
    common = {
        "weight": None if class_weights is None else torch.tensor(class_weights).double(),
        "ignore_index": -100 if settings["ignore_index"] is None else settings["ignore_index"],
        "label_smoothing": settings["label_smoothing"],
    }
    if weights is None:
        loss = torch.nn.functional.cross_entropy(z, y, **common)
    else:
        each = torch.nn.functional.cross_entropy(z, y, reduction="none", **common)
        counts = (y != common["ignore_index"]).double()
        if common["weight"] is not None:
            counts *= common["weight"][torch.where(counts > 0, y, 0)]
        of_row = torch.from_numpy(weights).reshape(-1, *[1] * (y.ndim - 1))
        loss = (each * of_row).sum() / (counts * of_row).sum()
    loss.backward()
    return loss.item(), z.grad.numpy()


def in_parts(loss, outputs, targets, weights, parts):
    """The loss and gradient as shards of the batch add up to them; some shards are empty."""
    count = loss.count(targets, weights)
    total, gradient = 0.0, np.zeros_like(outputs)
    for k in range(parts):
        own = slice(*bounds(k, parts, len(outputs)))
        share, of_own = loss(
            outputs[own], targets[own], count, None if weights is None else weights[own]
        )
        total += share
        gradient[own] = of_own
    return total, gradient


@given(cross_entropies(), st.integers(1, 4))
def test_cross_entropy_is_torchs(case, parts):
    settings, outputs, labels, weights = case
    expected, expected_gradient = torchs(*case)
    loss = CrossEntropy(**settings)
    total, gradient = in_parts(loss, outputs, labels, weights, parts)
    if not loss.count(labels, weights):
        assert not math.isfinite(expected)
        assert total == 0
        assert not gradient.any()
        return
    assert total == pytest.approx(expected, rel=1e-12, abs=1e-14)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-11, atol=1e-14)


@given(cross_entropies())
def test_the_gradient_of_cross_entropy_is_its_derivative(case):
    settings, outputs, labels, weights = case
    loss = CrossEntropy(**settings)
    count = loss.count(labels, weights)
    gradient = loss(outputs, labels, count, weights)[1]
    for place in [(0,) * outputs.ndim, tuple(n - 1 for n in outputs.shape)]:
        step = outputs.astype(complex)
        step[place] += 1e-30j
        derivative = np.imag(loss(step, labels, count, weights)[0]) / 1e-30
        assert gradient[place] == pytest.approx(derivative, rel=1e-10, abs=1e-14)


@pytest.mark.parametrize("shape", [(7,), (7, 1), (7, 3), (7, 2, 3)])
@pytest.mark.parametrize(
    ("loss", "torchs"),
    [
        (MeanSquaredError(), torch.nn.functional.mse_loss),
        (BinaryCrossEntropy(), torch.nn.functional.binary_cross_entropy_with_logits),
    ],
    ids=["squares", "binary"],
)
@pytest.mark.parametrize("weighted", [False, True])
def test_losses_of_single_elements_are_torchs(loss, torchs, shape, weighted):
    rng = np.random.default_rng(1)
    outputs, targets = 3 * rng.standard_normal(shape), rng.random(shape)
    weights = rng.random(7) if weighted else None
    z = torch.from_numpy(outputs).requires_grad_()
    if weighted:
        of_row = torch.from_numpy(weights).reshape(-1, *[1] * (len(shape) - 1))
        each = torchs(z, torch.from_numpy(targets), reduction="none")
        expected = (each * of_row).sum() / of_row.expand(shape).sum()
    else:
        expected = torchs(z, torch.from_numpy(targets))
    expected.backward()
    for parts in (1, 3, 9):
        total, gradient = in_parts(loss, outputs, targets, weights, parts)
        assert total == pytest.approx(expected.item(), rel=1e-13)
        np.testing.assert_allclose(gradient, z.grad.numpy(), rtol=1e-12, atol=1e-15)
    step = outputs.astype(complex)
    step.flat[3] += 1e-30j
    count = loss.count(targets, weights)
    derivative = np.imag(loss(step, targets, count, weights)[0]) / 1e-30
    assert gradient.flat[3] == pytest.approx(derivative, rel=1e-12)


def test_large_logits_neither_overflow_nor_vanish():
    outputs = np.array([[1e4], [-1e4]])
    loss, gradient = BinaryCrossEntropy()(outputs, np.array([0.0, 1.0]), 2)
    assert loss == 1e4
    np.testing.assert_array_equal(gradient, [[0.5], [-0.5]])


@pytest.mark.parametrize("kind", [np.uint8, np.int8, np.uint64])
def test_labels_may_be_of_any_kind_of_integer(kind):
    """A place in the logits of 300 rows is no number that 8 bits hold."""
    rng = np.random.default_rng(0)
    logits, labels = rng.standard_normal((300, 4)), rng.integers(0, 4, 300)
    loss, gradient = cross_entropy(logits, labels, 300)
    found = cross_entropy(logits, labels.astype(kind), 300)
    assert found[0] == loss
    np.testing.assert_array_equal(found[1], gradient)
    assert np.ptp(gradient[np.arange(300), labels]) > 0


def test_a_vector_of_targets_belongs_to_a_column_of_outputs():
    """Broadcasting (n, 1) against (n,) would compare every row with every other."""
    outputs, targets = np.arange(4.0).reshape(4, 1), np.arange(4.0) + 1
    loss, gradient = MeanSquaredError()(outputs, targets, 4)
    assert (loss, gradient.shape) == (1.0, (4, 1))


def test_tokens_may_be_flat_or_in_rows():
    rng = np.random.default_rng(2)
    outputs, labels = rng.standard_normal((6, CLASSES)), rng.integers(0, CLASSES, (2, 3))
    loss = CrossEntropy(ignore_index=0)
    count = loss.count(labels)
    flat = loss(outputs, labels.ravel(), count)
    rows = loss(outputs, labels, count)
    assert rows[0] == flat[0]
    np.testing.assert_array_equal(rows[1], flat[1])


def test_float32_stays_float32():
    outputs = np.random.default_rng(3).standard_normal((5, CLASSES)).astype(np.float32)
    labels = np.arange(5) % CLASSES
    for loss in (CrossEntropy(0.1, CLASS_WEIGHTS, 2), CrossEntropy()):
        assert loss(outputs, labels, 5)[1].dtype == np.float32
    for loss in (MeanSquaredError(), BinaryCrossEntropy()):
        targets = np.zeros(outputs.shape, int)
        assert loss(outputs, targets, 5, np.ones(5))[1].dtype == np.float32


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: CrossEntropy(label_smoothing=1), ValueError, "label_smoothing=1: expected 0.0"),
        (lambda: CrossEntropy(class_weights=[1, -1]), ValueError, "numbers of 0 or more"),
        (
            lambda: CrossEntropy(ignore_index="pad"),  # type: ignore[arg-type]
            TypeError,
            "ignore_index='pad': expected a whole",
        ),
        (
            lambda: CrossEntropy(class_weights=[1, 2])(np.ones((1, 3)), np.zeros(1, int), 1),
            ValueError,
            "2 class_weights and 3 outputs",
        ),
        (
            lambda: CrossEntropy(0.1)(np.ones((1, 3)), np.zeros(1), 1),
            ValueError,
            "labels are float64: expected integers",
        ),
        (
            lambda: CrossEntropy()(np.ones((2, 3)), np.zeros((2, 2), int), 2),
            ValueError,
            "labels of shape",
        ),
        (
            lambda: CrossEntropy(0.1)(np.ones((1, 3)), np.full(1, -100), 1),
            ValueError,
            "ignore_index=",
        ),
        (
            lambda: CrossEntropy(ignore_index=-1)(np.ones((1, 3)), np.full(1, 3), 1),
            ValueError,
            "from 0 to 2, or -1",
        ),
        (
            lambda: MeanSquaredError()(np.ones((2, 3)), np.ones(2), 2),
            ValueError,
            "expected a target for each output",
        ),
        (
            lambda: BinaryCrossEntropy()(np.ones((1, 1)), np.full(1, 2), 1),
            ValueError,
            "expected from 0 to 1",
        ),
        (
            lambda: mlp([2, 3], loss="mse"),  # type: ignore[arg-type]
            TypeError,
            "expected one of nn.loss",
        ),
    ],
)
def test_what_does_not_fit_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_predictions_are_in_the_form_of_the_targets():
    x = np.random.default_rng(4).standard_normal((5, 3))
    regression = mlp([3, 2], dtype="float64", loss=MeanSquaredError())
    np.testing.assert_array_equal(regression.predict(x, rows=2), regression.forward(x)[0])
    labels = mlp([3, 2], dtype="float64", loss=BinaryCrossEntropy())
    np.testing.assert_array_equal(labels.predict(x), labels.forward(x)[0] > 0)
    assert mlp([3, 2]).predict(x[:0]).dtype == np.int64


def test_a_batch_counts_what_the_loss_counts():
    labels = np.array([0, 1, -100, 2, -100])
    x, weights = np.zeros((5, 2)), [1, 2, 3, 4, 5]
    shard = Batch(x, labels).shard(1, 2)
    assert shard.count(CrossEntropy(ignore_index=-100)) == 3
    assert shard.count(CrossEntropy()) == shard.global_count == 5
    assert shard.as_global().count(CrossEntropy(ignore_index=-100)) == 1
    weighted = Batch(x, labels, index=[4, 3, 0], weights=weights).shard(0, 3)
    assert weighted.count(CrossEntropy(ignore_index=-100)) == 5
    np.testing.assert_array_equal(weighted.weights, [5])
    read = Batch(x, labels, index=[4, 3, 0], weights=weights).read(0, 3)
    assert read.count(CrossEntropy(ignore_index=-100)) == 5
    assert read.shard(1, 3).weights == [4]
    assert Batch(x, np.zeros((5, 7))).count(MeanSquaredError()) == 35
