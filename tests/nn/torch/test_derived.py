"""A class derived from TorchModel stays what it is, through copies and conversions."""

import copy
import types

import numpy as np
import pytest
import torch

from nn import Batch
from nn.torch import TorchModel
from nn.torch.layer import TorchLayer

pytestmark = pytest.mark.workers(1)


class Doubled(TorchModel):
    """A model whose loss counts twice, and which keeps things of its own."""

    def __init__(self, width, factor):
        super().__init__([torch.nn.Linear(3, width), torch.nn.Tanh(), torch.nn.Linear(width, 2)])
        self.factor, self.first, self.seen = factor, self.layers[0], []

    def gradients(self, batch, add=False, ready=None):
        loss = super().gradients(batch, add, ready)
        self.grads[:] *= self.factor
        self.seen.append(len(batch))
        return self.factor * loss

    def bind(self, params, grads):
        super().bind(params, grads)
        self.biases = params[-2:]


def batch(dtype="float64"):
    return Batch(np.arange(6).reshape(2, 3).astype(dtype), np.array([0, 1]))


COPIES = {
    "converted": lambda model: model.converted("float64"),
    "deep copy": copy.deepcopy,
}


@pytest.mark.parametrize("how", COPIES)
def test_a_copy_has_the_class_and_what_it_keeps(how):
    model = Doubled(4, 2)
    twin = COPIES[how](model)
    assert type(twin) is Doubled
    plain = TorchModel(model.module, params=model.params, seed=None)
    assert twin.gradients(batch()) == pytest.approx(2 * plain.gradients(batch()), rel=1e-6)
    np.testing.assert_allclose(twin.grads, 2 * plain.grads, rtol=1e-4)
    assert (twin.factor, twin.seen, model.seen) == (2, [2], [])
    assert twin.first is twin.layers[0]
    twin.params[:] = 7
    assert list(twin.biases) == [7, 7]
    assert not (model.params == 7).any()


def plain():
    return TorchModel([torch.nn.Linear(3, 2)])


@pytest.mark.parametrize("how", COPIES)
def test_a_method_that_was_assigned_is_bound_to_the_copy(how):
    model = plain()
    model.gradients = types.MethodType(lambda self, batch: float(self.params.sum()), model)
    twin = COPIES[how](model)
    twin.params[:] = 1
    assert twin.gradients(batch()) == 8


@pytest.mark.parametrize("how", COPIES)
def test_a_function_that_was_assigned_cannot_follow_to_a_copy(how):
    model = plain()
    given = model.gradients
    model.gradients = lambda batch: 2 * given(batch)
    with pytest.raises(ValueError, match="gradients of the model is a function that was assigned"):
        COPIES[how](model)


def test_a_copied_layer_keeps_what_its_class_adds():
    class Scaled(TorchLayer):
        factor = 1

        def forward(self, x):
            y, ctx = super().forward(x)
            return self.factor * y, ctx

    layer = Scaled(torch.nn.Linear(3, 2))
    layer.factor = 5
    twin = copy.copy(layer)
    assert type(twin) is Scaled
    assert twin.factor == 5
