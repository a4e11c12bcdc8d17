"""Hooks of a module, and a `forward` replaced in one object, are part of what is trained."""

from types import MethodType

import numpy as np
import pytest
import torch
from torch import nn as tnn

from nn import SGD
from nn.torch.model import TorchModel
from strategies import Sequential, TensorParallel
from tests.support.oracles import assert_trains_like, random_batches


def centre_by_hook(module):
    module.register_forward_hook(lambda module, inputs, y: y - y.mean(dim=1, keepdim=True))


def centre_by_patch(module):
    def forward(self, x):
        y = type(self).forward(self, x)
        return y - y.mean(dim=1, keepdim=True)

    module.forward = MethodType(forward, module)


@pytest.mark.workers(1, 2)
@pytest.mark.parametrize("change", [centre_by_hook, centre_by_patch])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_tensor_parallel_calls_hooks_with_all_features(comm, place, change):
    def hooked():
        layers = [tnn.Linear(5, 4), tnn.ReLU(), tnn.Linear(4, 3)]
        change(layers[place])
        return TorchModel(layers, dtype="float64", seed=0)

    parallel, oracle = TensorParallel(hooked(), SGD(0.1), comm), Sequential(hooked(), SGD(0.1))
    assert_trains_like(oracle, parallel, random_batches(hooked(), 6), comm)
    parallel.close()


@pytest.mark.workers(1)
@pytest.mark.parametrize("change", [centre_by_hook, centre_by_patch])
def test_the_hooks_of_a_sequential_are_called(change):
    inner = tnn.Sequential(tnn.Linear(5, 4), tnn.ReLU())
    change(inner)
    net = tnn.Sequential(inner, tnn.Linear(4, 3))
    model = TorchModel(net, dtype="float64", seed=None, input_shape=(5,))
    x = np.ones((2, 5))
    expected = net.double()(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_array_equal(model.forward(x)[0], expected)
