"""On every device and in lower precision a torch net learns what it learns on the CPU."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn as tnn

from nn import SGD
from nn.torch import layer as torch_layer
from nn.torch.model import TorchModel, devices
from strategies import DataParallel, Pipeline, Sequential, SharedDataParallel, TensorParallel
from tests.nn.torch.nets import NETS, STRATEGIES, build, every_net, every_strategy
from tests.support.exact import OF_OWN_LOSS
from tests.support.optimizers import momentum
from tests.support.oracles import assert_trains_like, random_batches


@pytest.mark.workers(1, 2)
def test_devices_learn_the_same(comm, device):
    """The plugin bench.user_code.devices provides `device`."""

    def single(device):
        return TorchModel(NETS["conv"][0](), device, "float32", 1, (2, 6, 6))

    batches = random_batches(single("cpu"), 8)
    for strategy in (DataParallel, SharedDataParallel, Pipeline):
        parallel = strategy(single(device), momentum(), comm)
        oracle = Sequential(single("cpu"), momentum())
        assert_trains_like(oracle, parallel, batches, comm, tolerance=1e-4)
        parallel.close()


@every_net
@every_strategy
@pytest.mark.workers(2)
def test_a_device_with_memory_of_its_own(comm, net, strategy, monkeypatch):
    """The CPU simulates a device: modules compute on copies of their parameters."""
    oracle = Sequential(build(net), momentum())
    monkeypatch.setattr(torch_layer, "in_host_memory", lambda device: False)
    model = build(net)
    parallel = STRATEGIES[strategy](model, momentum(), comm)
    batches = random_batches(model, 7, steps=2)
    assert_trains_like(oracle, parallel, batches, comm, own_loss=strategy in OF_OWN_LOSS)
    for weight in model.module.parameters():
        assert not np.shares_memory(weight.detach().numpy(), model.params)
    parallel.close()


@pytest.mark.workers(1)
def test_modules_elsewhere_are_shown_as_they_are_now(monkeypatch):
    monkeypatch.setattr(torch_layer, "in_host_memory", lambda device: False)
    model = build()
    Sequential(model, SGD(0.5)).step(*random_batches(model, 5, steps=1))
    shown = torch.nn.utils.parameters_to_vector(model.module.parameters())
    np.testing.assert_array_equal(shown.detach(), model.params)


@pytest.mark.workers(1)
@pytest.mark.parametrize("strategy", [partial(Pipeline, micro_batches=1), TensorParallel])
def test_parts_of_a_model_compute_in_bfloat16_too(comm, strategy):
    """One rank rounds as plain training does, because layers without a bias compute alike."""

    def mixed(compute="bfloat16"):
        layers = [tnn.Linear(5, 8, bias=False), tnn.ReLU(), tnn.Linear(8, 3, bias=False)]
        return TorchModel(layers, seed=1, compute=compute)

    batches = random_batches(mixed(), 16)
    parallel, oracle = strategy(mixed(), SGD(0.5), comm), Sequential(mixed(), SGD(0.5))
    assert_trains_like(oracle, parallel, batches, comm, tolerance=1e-7)
    single = Sequential(mixed(None), SGD(0.5))
    for batch in batches:
        single.step(batch)
    assert np.abs(single.weights() - oracle.weights()).max() > 1e-4
    parallel.close()


@pytest.mark.workers(1, 2)
def test_computing_in_bfloat16_keeps_float32_parameters(comm):
    def mixed(compute="bfloat16"):
        return TorchModel(NETS["linear"][0](), seed=1, compute=compute)

    (batch,) = random_batches(mixed(), 64, steps=1)
    model, single = mixed(), mixed(None)
    losses = model.gradients(batch), single.gradients(batch)
    assert 0 < abs(losses[0] - losses[1]) < 1e-2
    assert 0 < np.abs(model.grads - single.grads).max() < 2e-2 * np.abs(single.grads).max()
    assert model.grads.dtype == model.params.dtype == np.float32
    # Steps of 1e-5 would vanish in a bfloat16 near 1, but add up in float32 parameters.
    parallel = DataParallel(mixed(), SGD(1e-4), comm)
    start = parallel.weights()
    for _ in range(10):
        parallel.step(batch)
    expected = -1e-3 * single.grads
    error = np.abs(parallel.weights() - start - expected).max()
    assert error < 0.05 * np.abs(expected).max()


@pytest.mark.workers(1)
def test_a_device_that_is_not_there_is_named():
    absent = next(name for name in ("cuda:99", "mps") if name not in devices())
    with pytest.raises(ValueError, match=f"device='{absent}' is not there: torch finds cpu"):
        TorchModel(NETS["linear"][0](), device=absent)
    with pytest.raises(ValueError, match="device='gpu': expected one of cpu"):
        TorchModel(NETS["linear"][0](), device="gpu")
