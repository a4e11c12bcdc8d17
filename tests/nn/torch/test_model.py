"""A torch model is one vector: modules compute in it, and copies and seeds act on it."""

import copy

import numpy as np
import pytest
import torch
from mpi4py import MPI
from torch import nn as tnn

import nn
from nn import SGD, Batch
from nn.torch.model import TorchModel
from strategies import Sequential
from tests.nn.torch.nets import NETS, build, repeated
from tests.support.oracles import random_batches


@pytest.mark.workers(1)
def test_modules_compute_in_the_flat_vector_wherever_it_is_bound():
    model = build()
    for _ in range(2):
        at = 0
        for weight in model.module.parameters():
            own = model.params[at : at + weight.numel()]
            assert np.shares_memory(weight.detach().numpy(), own)
            at += weight.numel()
        assert at == len(model.params)
        model.bind(model.params.copy(), model.grads.copy())


@pytest.mark.workers(1)
def test_zero_grad_of_torch_does_not_stop_training():
    """`zero_grad` sets `.grad` to None, which would cut off a view that lies there."""
    model, oracle = build(), Sequential(build(), SGD(0.1))
    ours = Sequential(model, SGD(0.1))
    for batch in random_batches(model, 5, steps=3):
        model.module.zero_grad()
        ours.step(batch)
        oracle.step(batch)
        np.testing.assert_array_equal(ours.weights(), oracle.weights())
    assert all(weight.grad is None for weight in model.module.parameters())


@pytest.mark.workers(1)
def test_a_parameter_that_is_not_used_has_a_gradient_of_zero():
    class Half(tnn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = tnn.Linear(5, 3), tnn.Linear(5, 3)

        def forward(self, x):
            return self.used(x)

    model = TorchModel(Half(), dtype="float64", input_shape=(5,))
    model.grads[:] = 7
    model.gradients(*random_batches(model, 4, steps=1))
    assert model.grads[:18].all()
    assert not model.grads[18:].any()


@pytest.mark.workers(1)
@pytest.mark.parametrize("net", ["detached", "constant"])
@pytest.mark.parametrize("by_layer", [False, True])
def test_what_the_loss_does_not_depend_on_has_a_gradient_of_zero(net, by_layer):
    model = build(net)
    model.grads[:] = 7
    (batch,) = random_batches(model, 4, steps=1)
    model.gradients(batch, ready=(lambda i: None) if by_layer else None)
    assert not model.grads[: model.offsets[1]].any()
    assert model.grads[model.offsets[1] :].any()
    once = model.grads.copy()
    model.gradients(batch, add=True, ready=(lambda i: None) if by_layer else None)
    np.testing.assert_allclose(model.grads, 2 * once, rtol=1e-14)
    dx = model.layers[1].backward(np.ones((4, 4)), model.layers[1].forward(np.ones((4, 4)))[1])
    np.testing.assert_array_equal(dx, np.zeros((4, 4)))


@pytest.mark.workers(1)
def test_a_module_that_stands_twice_is_used_twice():
    net = repeated()
    model = TorchModel(net, seed=None)
    assert len(model.layers) == 8
    x = random_batches(model, 6, steps=1)[0].x.astype("float32")
    found, expected = model.forward(x)[0], net(torch.from_numpy(x))
    np.testing.assert_array_equal(found, expected.detach().numpy())


@pytest.mark.workers(1)
def test_values_are_kept_in_whatever_order_they_lie_in_memory():
    net = NETS["conv"][0]().to(memory_format=torch.channels_last)
    model = TorchModel(net, seed=None, input_shape=build("conv").input_shape)
    weights = [weight.detach().flatten() for weight in net.parameters()]
    np.testing.assert_array_equal(model.params, torch.cat(weights).numpy())
    (batch,) = random_batches(model, 5, steps=1)
    expected = net(torch.from_numpy(batch.x).to(next(net.parameters()).dtype))
    np.testing.assert_allclose(model.forward(batch.x)[0], expected.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.workers(1)
@pytest.mark.parametrize("fails", [False, True])
def test_a_prediction_leaves_the_model_in_training(fails):
    """Dropout would stop, and batch norm would no longer learn its statistics."""

    def made():
        torch.manual_seed(0)
        drop, norm = tnn.Dropout(0.5), tnn.BatchNorm1d(6)
        net = tnn.Sequential(tnn.Linear(5, 6), norm, drop, tnn.Linear(6, 3))
        return Sequential(TorchModel(net.double()), SGD(0.1))

    one, other = made(), made()
    for batch in random_batches(one.model, 7, steps=2):
        if fails:
            with pytest.raises(ValueError, match="rows"):
                one.model.predict(np.zeros((2, 4)))
        else:
            one.model.predict(batch.x)
        one.step(batch)
        other.step(batch)
    for name, array in other.state().items():
        np.testing.assert_array_equal(one.state()[name], array, name)


@pytest.mark.workers(1)
def test_the_modules_given_are_not_touched():
    net = NETS["linear"][0]()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    one, other = TorchModel(net, seed=None), TorchModel(net, seed=None)
    (batch,) = random_batches(one, 5, steps=1)
    Sequential(one, SGD(0.5)).step(batch)
    assert not np.array_equal(one.params, other.params)
    assert net[3].inplace
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, before[name])


@pytest.mark.workers(1)
def test_data_that_is_read_only_reversed_or_flat_is_taken():
    model = build("conv")
    (batch,) = random_batches(model, 5, steps=1)
    loss, gradient = model.gradients(batch), model.grads.copy()
    frozen = batch.x[::-1].copy()
    frozen.flags.writeable = False
    for x in (frozen[::-1], np.moveaxis(np.moveaxis(batch.x, 1, -1).copy(), -1, 1)):
        assert model.gradients(Batch(x, batch.y)) == pytest.approx(loss, rel=1e-12)
        np.testing.assert_allclose(model.grads, gradient, rtol=0, atol=1e-13)
    assert model.gradients(Batch(batch.x.reshape(5, -1), batch.y)) == loss


class Centred(tnn.Module):
    """A module that writes into its input."""

    def forward(self, x):
        x -= x.mean(dim=-1, keepdim=True)
        return x


@pytest.mark.workers(1)
@pytest.mark.parametrize("by_layer", [False, True])
def test_a_module_that_writes_into_its_input_writes_into_a_copy(by_layer):
    def build(module):
        layers = [module(), tnn.Linear(4, 4), module(), tnn.Linear(4, 3)]
        return TorchModel(layers, dtype="float64", input_shape=(4,), seed=0)

    class Apart(tnn.Module):
        def forward(self, x):
            return x - x.mean(dim=-1, keepdim=True)

    model, oracle = build(Centred), build(Apart)
    (batch,) = random_batches(model, 6, steps=1)
    x = batch.x.copy()
    ready = (lambda i: None) if by_layer else None
    assert model.gradients(batch, ready=ready) == oracle.gradients(batch, ready=ready)
    np.testing.assert_array_equal(model.grads, oracle.grads)
    np.testing.assert_array_equal(model.predict(batch.x), oracle.predict(batch.x))
    np.testing.assert_array_equal(batch.x, x)


@pytest.mark.workers(1)
def test_converted_is_the_same_model_in_another_dtype():
    """The copy has equal arguments and dropout masks, and shares no memory."""

    def build():
        layers = [tnn.Linear(5, 4), tnn.Dropout(0.5), tnn.BatchNorm1d(4), tnn.Linear(4, 3)]
        return TorchModel(layers, seed=3, compute="bfloat16", sync_batch_norm=MPI.COMM_SELF)

    model = build()
    double, single = model.converted("float64"), model.converted("float32")
    (batch,) = random_batches(model, 8, steps=1)
    before = model.params.copy()
    for twin, compute in ((double, None), (single, "bfloat16")):
        assert (twin.seed, twin.compute, twin.clock) == (3, compute, None)
        assert (twin.input_shape, twin.sync_batch_norm) == ((5,), MPI.COMM_SELF)
        np.testing.assert_array_equal(twin.params, before)
    assert (double.dtype, single.dtype) == (np.float64, np.float32)
    losses = [Sequential(m, SGD(0.5)).step(batch) for m in (build(), single, double)]
    assert losses[0] == losses[1]
    assert losses[0] == pytest.approx(losses[2], rel=0.02)  # other masks would make another loss
    np.testing.assert_array_equal(model.params, before)
    assert not np.array_equal(single.params, before)


@pytest.mark.workers(1)
@pytest.mark.parametrize("make", [build, lambda: nn.mlp([5, 4, 3], dtype="float64")])
def test_a_copy_of_a_model_is_alive(make):
    model = make()
    twin, stage = copy.deepcopy(model), copy.deepcopy(model.stage(1, 3))
    (batch,) = random_batches(model, 6, steps=1)
    assert Sequential(twin, SGD(0.5)).step(batch) == model.gradients(batch)
    np.testing.assert_allclose(twin.params, model.params - 0.5 * model.grads, rtol=1e-14)
    assert model.grads.any()
    np.testing.assert_array_equal(stage.params, model.stage(1, 3).params)
    for layer in stage.layers:
        assert all(np.shares_memory(weight, stage.whole.params) for weight in layer.params)
    assert sum(len(layer.params) for layer in stage.layers) > 0
    assert not np.shares_memory(stage.params, model.params)


@pytest.mark.workers(1)
def test_seeds():
    def factory():
        return NETS["residual"][0]()

    before = torch.get_rng_state()
    one, same, other = (
        TorchModel(modules, input_shape=(5,), seed=seed)
        for modules, seed in ((factory, 1), (factory, 1), (factory, 2))
    )
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(one.params, same.params)
    assert not np.array_equal(one.params, other.params)
    net = factory()
    drawn, again = (TorchModel(each, seed=0, input_shape=(5,)) for each in (net, factory()))
    np.testing.assert_array_equal(drawn.params, again.params)
    theirs = torch.cat([weight.detach().ravel() for weight in net.parameters()])
    for how in ({}, {"seed": None}):
        kept = TorchModel(net, input_shape=(5,), **how)
        np.testing.assert_array_equal(kept.params, theirs.numpy())
    given = TorchModel(net, input_shape=(5,), params=one.params)
    np.testing.assert_array_equal(given.params, one.params)


@pytest.mark.workers(1)
def test_layers_of_one_shape_do_not_start_equal():
    model = TorchModel([tnn.Linear(5, 5), tnn.Linear(5, 5)])
    assert not np.array_equal(*np.split(model.params, 2))
