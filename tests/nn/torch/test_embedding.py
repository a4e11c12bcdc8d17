"""Embeddings take whole numbers as floats, and refuse what no float can number."""

import numpy as np
import pytest
import torch
from torch import nn as tnn

from nn import Batch
from nn.torch.model import TorchModel


class Placed(tnn.Module):
    """The embedding of places is the first module, but does not take x."""

    def __init__(self):
        super().__init__()
        self.place, self.out = tnn.Embedding(4, 1), tnn.Linear(4, 3)

    def forward(self, x):
        return self.out(x + self.place(torch.arange(4)).squeeze(1))


class Words(tnn.Module):
    def __init__(self):
        super().__init__()
        self.line, self.words = tnn.Linear(4, 3), tnn.EmbeddingBag(9, 4)

    def forward(self, x):
        return self.line(self.words(input=x))


@pytest.mark.workers(1)
@pytest.mark.parametrize(
    "modules",
    [
        lambda: tnn.Sequential(tnn.EmbeddingBag(9, 4), tnn.Linear(4, 3)),
        lambda: tnn.Sequential(tnn.Flatten(), tnn.EmbeddingBag(9, 4), tnn.Linear(4, 3)),
        lambda: tnn.Sequential(tnn.EmbeddingBag(9, 4, sparse=True), tnn.Linear(4, 3)),
        Words,
    ],
    ids=["first", "later", "sparse", "inside, by keyword"],
)
def test_an_embedding_takes_word_numbers(modules):
    net = modules()
    model = TorchModel(net, dtype="float64", seed=None, input_shape=(6,))
    rows = np.random.default_rng(0).integers(0, 9, (2, 6))
    expected = net.double()(torch.from_numpy(rows)).detach().numpy()
    np.testing.assert_array_equal(model.forward(rows)[0], expected)
    model.gradients(Batch(np.full((2, 6), 7), np.array([0, 2])))
    touched = {tuple(w.shape): g for w, g in zip(model.module.parameters(), model._whole.grads)}
    np.testing.assert_array_equal(touched[9, 4].any(axis=1), np.arange(9) == 7)


@pytest.mark.workers(1)
def test_rows_stay_floats_beside_an_embedding_of_places():
    net = Placed()
    model = TorchModel(net, seed=None, input_shape=(4,))
    x = np.random.default_rng(0).standard_normal((5, 4)).astype("float32")
    expected = net(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_array_equal(model.forward(x)[0], expected)


@pytest.mark.workers(1)
@pytest.mark.parametrize(("token", "shown"), [(9, "9"), (-1, "-1"), (0.5, "0.5")])
def test_a_word_that_is_not_in_the_table_is_named(token, shown):
    model = TorchModel([tnn.Embedding(9, 4), tnn.Flatten()], input_shape=(2,))
    message = rf"^{shown} is no row of Embedding\(9, 4\): expected whole numbers from 0 to 8"
    with pytest.raises(ValueError, match=message):
        model.forward(np.array([[1, 2], [8, token]]))


@pytest.mark.workers(1)
@pytest.mark.parametrize("last", [-1, 0, 1])
def test_rows_that_float32_cannot_tell_apart_need_whole_numbers(last):
    model = TorchModel([tnn.Embedding(2**24 + 2, 1), tnn.Flatten()], input_shape=(1,))
    number = 2**24 + last
    y, _ = model.forward(np.array([[number]]))
    np.testing.assert_array_equal(y, model.params[[[number]]])
    rounded = np.array([[number]], "float32")
    if number < 2**24:
        np.testing.assert_array_equal(model.forward(rounded)[0], y)
    else:
        with pytest.raises(ValueError, match=r"as torch.float32, .* rounds those as large as 1677"):
            model.forward(rounded)
