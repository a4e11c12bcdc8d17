"""EmbeddingBag equals one-hot features times a matrix, and writes only to the rows it was given."""

import numpy as np
import pytest

from nn import SGD, Batch, Model
from nn.layers import Flatten, Linear, Tanh
from nn.layers.embedding import EmbeddingBag
from nn.layers.residual import Residual
from strategies import DataParallel, Hogwild, Sequential
from tests.support.oracles import assert_trains_like

VOCABULARY, LENGTH, CLASSES = 30, 4, 3


def net():
    layers = [EmbeddingBag(VOCABULARY, 5, std=1.0), Tanh(), Linear(5, CLASSES)]
    return Model(layers, "float64", seed=1, input_shape=(LENGTH,))


def batches(rows, steps):
    """Batches of numbers from -1, which is padding; some numbers occur twice in a row."""
    rng = np.random.default_rng(0)
    return [
        Batch(rng.integers(-1, VOCABULARY, (rows, LENGTH)), rng.integers(0, CLASSES, rows))
        for _ in range(steps)
    ]


@pytest.mark.workers(1)
def test_equals_one_hot_features_times_a_matrix():
    (batch,) = batches(7, 1)
    layer = EmbeddingBag(VOCABULARY, 5)
    table, grads = np.random.default_rng(1).standard_normal((2, VOCABULARY * 5))
    before = grads.copy()
    layer.bind(table, grads)
    one_hot = np.zeros((7, VOCABULARY + 1))
    np.add.at(one_hot, (np.arange(7)[:, None], batch.x), 1)
    one_hot = one_hot[:, :-1]  # number -1
    y, ctx = layer.forward(batch.x.astype(float))
    np.testing.assert_allclose(y, one_hot @ table.reshape(-1, 5), rtol=1e-13)

    dy = np.random.default_rng(2).standard_normal((7, 5))
    expected = (one_hot.T @ dy).ravel()
    layer.backward(dy, ctx, add=True)
    np.testing.assert_allclose(grads, before + expected, rtol=1e-13)
    layer.backward(dy, ctx)
    np.testing.assert_allclose(grads, expected, rtol=1e-13)
    np.testing.assert_array_equal(layer.support, np.flatnonzero(one_hot.any(axis=0).repeat(5)))


@pytest.mark.parametrize("rows", [7, 1])
def test_data_parallel_equals_sequential(comm, rows):
    parallel = DataParallel(net(), SGD(0.1, momentum=0.9), comm)
    assert_trains_like(Sequential(net(), SGD(0.1, momentum=0.9)), parallel, batches(rows, 4), comm)


@pytest.mark.parametrize("rows", [7, 1])
def test_sparse_hogwild_in_lock_step_order_equals_sequential_to_the_bit(comm, rows):
    hogwild = Hogwild(net(), SGD(0.1), comm, sparse=True)
    oracle = Sequential(net(), SGD(0.1))
    for batch in batches(rows, 4):
        for rank in range(comm.size):
            if comm.rank == rank:
                hogwild.step(batch)
            x, y = batch.part(rank, comm.size)
            if len(y):
                oracle.step(Batch(x, y))
            np.testing.assert_array_equal(hogwild.weights(), oracle.weights())
    assert np.abs(oracle.weights() - net().params).max() > 1e-2
    hogwild.close()


@pytest.mark.workers(1)
def test_wrong_sizes_and_numbers_are_refused():
    with pytest.raises(ValueError, match="expected 1 or more"):
        EmbeddingBag(0, 3)
    with pytest.raises(ValueError, match="expected a vector"):
        Model([EmbeddingBag(9, 3)], input_shape=(2, 2))


@pytest.mark.workers(1)
def test_rows_that_float32_cannot_tell_apart_need_whole_numbers():
    model = Model([EmbeddingBag(2**24 + 2, 1)], "float32", seed=1, input_shape=(1,))
    last = np.array([[2**24 + 1]])
    np.testing.assert_array_equal(model.forward(last)[0], model.params[last])
    with pytest.raises(ValueError, match=r"as float32, .* rounds those as large as 1677"):
        model.forward(last.astype("float32"))


@pytest.mark.workers(1)
def test_there_is_no_gradient_for_layers_before_it():
    with pytest.raises(ValueError, match=r"layer 1: .* expected it first"):
        Model([Flatten(), EmbeddingBag(9, 3)], input_shape=(2,))
    with pytest.raises(ValueError, match="cannot be in a residual block"):
        Residual(Linear(3, 3), EmbeddingBag(9, 3))


@pytest.mark.workers(1)
@pytest.mark.parametrize("number", [VOCABULARY, 2.9, -1.5, np.nan, np.inf])
def test_a_row_that_is_not_there_is_refused(number):
    with pytest.raises(ValueError, match=f"no row {number}: expected whole numbers up to 29"):
        net().forward(np.array([[-1, 2, number, 3]]))
