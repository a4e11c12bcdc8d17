"""Models are two vectors into which layers and stages have views."""

import numpy as np
import pytest

from nn import Batch, Model, cnn, lenet, mlp
from nn.layers import Conv2d, Flatten, Linear, MaxPool2d, ReLU
from tests.support.oracles import random_batches

pytestmark = pytest.mark.workers(1)


def test_layers_look_into_the_vectors():
    model = mlp([3, 4, 2])
    model.params[:] = 0
    weight, bias = model.layers[2].params
    weight[1, 3], bias[0] = 5, 6
    assert model.params[model.offsets[2] + 7] == 5
    assert model.params[-2] == 6


def test_layers_of_one_shape_do_not_start_equal():
    model = mlp([6, 6, 6, 6])
    first, second = (model.layers[i].params[0] for i in (0, 2))
    assert not np.array_equal(first, second)


def test_one_seed_one_start_in_both_dtypes():
    a, b, c = mlp([5, 4, 3], seed=1), mlp([5, 4, 3], seed=1), mlp([5, 4, 3], seed=2)
    np.testing.assert_array_equal(a.params, b.params)
    assert not np.array_equal(a.params, c.params)
    double = mlp([5, 4, 3], dtype="float64", seed=1)
    np.testing.assert_array_equal(double.params.astype("float32"), a.params)


def test_initial_weights_have_the_scale_of_their_activation():
    relu, tanh = (mlp([400, 300, 300], activation=a).layers[0].params[0] for a in ("relu", "tanh"))
    np.testing.assert_allclose(relu.std(), np.sqrt(2 / 400), rtol=0.02)
    np.testing.assert_allclose(tanh.std(), np.sqrt(1 / 400), rtol=0.02)


def test_bind_moves_the_model_and_its_stages():
    model = mlp([3, 4, 2], dtype="float64")
    stage = model.stage(2, 3)
    params, grads = np.arange(model.params.size, dtype=float), np.zeros(model.params.size)
    model.bind(params, grads)
    assert stage.params.base is not None
    np.testing.assert_array_equal(stage.params, params[model.offsets[2] :])
    batch = random_batches(model, 5)[0]
    model.gradients(batch)
    np.testing.assert_array_equal(stage.grads, grads[model.offsets[2] :])
    assert stage.grads.any()


def test_stages_in_a_row_are_the_model():
    model = cnn(dtype="float64", input_shape=(1, 10, 10))
    x = random_batches(model, 4)[0].x
    expected, contexts = model.forward(x)
    dy = np.random.default_rng(0).standard_normal(expected.shape)
    model.backward(dy.copy(), contexts)
    whole = model.grads.copy()
    model.grads[:] = 0
    stages = [model.stage(lo, hi) for lo, hi in ((0, 2), (2, 7), (7, 12))]
    kept = []
    for stage in stages:
        x, ctx = stage.forward(x)
        kept.append(ctx)
    np.testing.assert_array_equal(x, expected)
    for stage, ctx in zip(reversed(stages), reversed(kept)):
        dy = stage.backward(dy, ctx, need_dx=stage is not stages[0])
    np.testing.assert_array_equal(model.grads, whole)


def test_ready_is_called_for_every_layer_last_first():
    model = mlp([3, 4, 2])
    seen = []
    model.gradients(random_batches(model, 5)[0], ready=seen.append)
    assert seen == [2, 1, 0]


def test_gradients_of_shards_sum_to_those_of_the_batch():
    model = mlp([6, 5, 4], dtype="float64")
    batch = random_batches(model, 7)[0]
    loss = model.gradients(batch)
    whole = model.grads.copy()
    losses = [model.gradients(batch.shard(k, 9), add=k > 0) for k in range(9)]
    np.testing.assert_allclose(model.grads, whole, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(sum(losses), loss, rtol=1e-13)


def test_the_nets_have_the_shapes_they_are_known_by():
    assert [layer.shapes[0] for layer in cnn().layers if layer.shapes] == [
        (32, 1, 3, 3),
        (64, 32, 3, 3),
        (128, 1600),
        (64, 128),
        (10, 64),
    ]
    assert [layer.shapes[0] for layer in cnn(padding=1).layers if layer.shapes][:3] == [
        (32, 1, 3, 3),
        (64, 32, 3, 3),
        (128, 64 * 7 * 7),
    ]
    assert [layer.shapes[0] for layer in lenet().layers if layer.shapes] == [
        (6, 1, 5, 5),
        (16, 6, 5, 5),
        (120, 400),
        (84, 120),
        (10, 84),
    ]
    assert lenet().params.size == 61706


@pytest.mark.parametrize(
    ("model", "shapes"),
    [
        (lenet(dtype="float64"), [(784,), (28, 28), (28, 1, 28), (1, 784)]),
        (mlp([12, 3], dtype="float64"), [(3, 4), (1, 12), (2, 2, 3)]),
    ],
)
def test_rows_may_be_flattened_or_without_sides_of_1(model, shapes):
    x = np.random.default_rng(0).random((2, *model.input_shape))
    expected = model.forward(x)[0]
    for shape in shapes:
        np.testing.assert_array_equal(model.forward(x.reshape(2, *shape))[0], expected)


@pytest.mark.parametrize("shape", [(8, 8, 3), (4, 16, 3), (3, 64)])
def test_rows_of_as_many_elements_in_another_order_are_refused(shape):
    """Images with the channels last would be taken for other images."""
    model = Model([Conv2d(3, 2, 3), Flatten(), Linear(72, 2)], input_shape=(3, 8, 8))
    with pytest.raises(ValueError, match=r"rows of shape \(.*\): expected \(3, 8, 8\)"):
        model.forward(np.zeros((2, *shape)))


def test_losses_of_shards_add_up_whatever_their_parts():
    model = mlp([3, 5, 4], dtype="float64", seed=1)
    rng = np.random.default_rng(0)
    batch = Batch(rng.standard_normal((11, 3)), rng.integers(0, 4, 11), weights=rng.random(11))
    whole = model.gradients(batch)
    for rows in (1, 4, 100):
        shares = [model.loss_of(batch.shard(k, 3), rows) for k in range(3)]
        assert sum(shares) == pytest.approx(whole, rel=1e-14)
    assert model.loss_of(batch.shard(11, 12)) == 0


def test_prediction_is_independent_of_its_chunks():
    model = mlp([6, 5, 4], dtype="float64")
    x = np.random.default_rng(0).standard_normal((10, 6))
    np.testing.assert_array_equal(model.predict(x, rows=3), model.forward(x)[0].argmax(axis=1))
    assert model.predict(x[:0]).shape == (0,)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: mlp([3]), "at least two"),
        (lambda: mlp([3, 0, 2]), "at least 1"),
        (lambda: mlp([3, 2.5, 2]), "whole numbers"),  # type: ignore[list-item]
        (lambda: mlp([3, 2], activation="step"), "relu, sigmoid, tanh"),
        (lambda: mlp([3, 2], dtype="float16"), "float32, float64"),
        (lambda: cnn(input_shape=(1, 5, 5)), "larger than rows"),
        (lambda: cnn(input_shape=(1, 3, 4), padding=1), "larger than rows"),
        (lambda: cnn(padding=-1), "padding=-1: expected 0 or more"),
        (lambda: cnn(classes=0), "at least 1"),
        (lambda: lenet(input_shape=(1, 8, 8)), "larger than rows"),
        (lambda: lenet(input_shape=(28, 28)), "channels, height, width"),
        (lambda: Model([]), "at least one"),
        (lambda: Model([Linear(3, 4), Linear(5, 2)]), r"layer 1: Linear\(5, 2\) cannot take"),
        (lambda: Model([Flatten()]), "input_shape"),
        (lambda: Model([Conv2d(2, 1, 3)], input_shape=(1, 5, 5)), "cannot take 1 channels"),
        (lambda: Model([Linear(2, 2)] * 2), "stands twice"),
        (lambda: Model([ReLU(in_place=True), Linear(2, 2)], input_shape=(2,)), "overwrite"),
        (lambda: Model([Flatten(), ReLU(in_place=True)], input_shape=(2,)), "overwrite"),
        (lambda: Linear(-1, 2), "0 or more"),
        (lambda: Conv2d(0, 1, 3), "1 or more"),
        (lambda: Conv2d(1, 1, 3, padding=-1), "0 or more"),
        (lambda: MaxPool2d(0), "1 or more"),
        (lambda: mlp([3, 2]).stage(1, 1), "0 <= lo < hi <= 1"),
        (lambda: mlp([3, 2]).stage(0, 1).bind(np.zeros(8), np.zeros(8)), "bind the whole model"),
        (lambda: mlp([3, 2]).bind(np.zeros(7), np.zeros(7)), "8 elements"),
        (lambda: mlp([3, 2]).bind(np.zeros(16)[::2], np.zeros(8)), "contiguous"),
        (lambda: mlp([3, 2]).bind(np.zeros(8), np.zeros(8, "f")), "expected one"),
        (lambda: mlp([3, 2]).forward(np.zeros((1, 4))), r"expected \(3,\)"),
    ],
)
def test_bad_models_say_what_was_expected(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Model([3]), "layer 0 is 3: expected one of nn.layers"),  # type: ignore[list-item]
        (lambda: Model([Flatten()], input_shape=28), "shape of one row"),  # type: ignore[arg-type]
        (lambda: cnn(input_shape=28), "shape of one row"),  # type: ignore[arg-type]
        (lambda: lenet(input_shape=(1, 14.5, 14)), "whole number"),  # type: ignore[arg-type]
        (lambda: Linear(2.0, 3), "inputs=2.0: expected a whole"),  # type: ignore[arg-type]
        (lambda: Conv2d(1, 2.5, 3), "outputs=2.5: expected a whole"),  # type: ignore[arg-type]
        (lambda: MaxPool2d(2, 1.5), "stride=1.5: expected a whole"),  # type: ignore[arg-type]
    ],
)
def test_what_is_not_a_layer_or_a_size_is_refused(build, message):
    with pytest.raises(TypeError, match=message):
        build()


def test_relu_leaves_its_input_alone_unless_told_otherwise():
    x = np.array([[-1.0, 2.0]])
    ReLU().forward(x)
    np.testing.assert_array_equal(x, [[-1, 2]])
