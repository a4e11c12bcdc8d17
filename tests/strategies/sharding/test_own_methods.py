"""What a user's class of a model or layer replaces is trained by every strategy, or refused."""

import types

import numpy as np
import pytest

from nn import SGD, Model
from nn.layers import Linear, Tanh
from nn.layers.residual import Residual
from nn.own_methods import own_methods
from strategies import DataParallel, Hybrid, Pipeline, Sequential, TensorParallel, ZeRO
from strategies.base import Refused
from strategies.catalog import CATALOG
from strategies.costs import held_by_tensor_parallel
from tests.support.oracles import assert_trains_like, random_batches

SHARDED = {"ZeRO-1": ZeRO, "TensorParallel": TensorParallel, "Pipeline": Pipeline, "Hybrid": Hybrid}


class Doubled(Model):
    """A model whose loss counts twice."""

    def gradients(self, batch, add=False, ready=None):
        loss = super().gradients(batch, add, ready)
        self.grads[:] *= 2
        return 2 * loss


class Predicts(Model):
    def predict(self, x, rows=1024):
        return super().predict(x, rows) + 1


class Shifted(Linear):
    """y = x W^T + 3 b, so that a plain Linear in its place trains otherwise."""

    def forward(self, x):
        weight, bias = self.params
        return x @ weight.T + 3 * bias, x

    def backward(self, dy, ctx, need_dx=True, add=False):
        dx = super().backward(dy, ctx, need_dx, add)
        assert not add
        self.grads[1][:] *= 3
        return dx


class Begun(Linear):
    """A Linear with a start of its own."""

    def init(self, rng):
        return rng.normal(0, 0.1, self.shapes[0]), np.ones(self.outputs)


class Centred(Tanh):
    """tanh of what remains of a feature without the mean of all features."""

    def forward(self, x):
        return super().forward(x - x.mean(axis=1, keepdims=True))

    def backward(self, dy, ctx, need_dx=True, add=False):
        dx = super().backward(dy, ctx, need_dx, add)
        return dx - dx.mean(axis=1, keepdims=True)


class Halved(Residual):
    """y = x + f(x) / 2."""

    def forward(self, x):
        y, contexts = super().forward(x)
        return (x + y) / 2, contexts

    def backward(self, dy, ctx, need_dx=True, add=False):
        dx = super().backward(dy / 2, ctx, need_dx, add)
        return dx + dy / 2 if need_dx else None


def net(model=Model, first=Linear, inner=Tanh, residual=Residual):
    layers = [first(5, 6), inner(), residual(Linear(6, 6), inner()), Linear(6, 7), Linear(7, 4)]
    return model(layers, dtype="float64", seed=1)


@pytest.mark.workers(1)
def test_methods_of_a_derived_class_and_of_an_object_are_found():
    assert own_methods(net()) == own_methods(net(Predicts).stage(0, 1)) == []
    assert own_methods(net(Doubled)) == ["gradients"]
    assert own_methods(Shifted(2, 3)) == ["backward", "forward"]
    assert own_methods(Begun(2, 3)) == ["init"]
    patched = net(Predicts)
    patched.gradients = patched.gradients
    assert own_methods(patched) == ["gradients", "predict"]


@pytest.mark.workers(2)
@pytest.mark.parametrize("name", SHARDED)
def test_a_strategy_that_computes_by_itself_refuses_a_model_with_other_methods(comm, name):
    said = f"the model replaces gradients of Model, and {SHARDED[name].__name__} computes"
    with pytest.raises(Refused, match=said):
        CATALOG[name](net(Doubled), SGD(0.1), comm)
    assigned = net()
    assigned.forward = types.MethodType(Model.forward, assigned)
    with pytest.raises(Refused, match="the model replaces forward of Model"):
        CATALOG[name](assigned, SGD(0.1), comm)
    layer = net()
    layer.layers[2].layers[1].forward = lambda x: (x, x)
    with pytest.raises(Refused, match=r"forward of layer 2, .* was assigned to the object"):
        CATALOG[name](layer, SGD(0.1), comm)
    CATALOG[name](net(Predicts), SGD(0.1), comm).close()


@pytest.mark.workers(2)
def test_data_parallelism_trains_with_the_methods_of_the_model(comm):
    batches = random_batches(net(), rows=5)
    oracle = Sequential(net(Doubled), SGD(0.1))
    assert_trains_like(oracle, DataParallel(net(Doubled), SGD(0.1), comm), batches, comm)
    assert np.abs(oracle.weights() - Sequential(net(), SGD(0.1)).weights()).max() > 1e-3


@pytest.mark.workers(2, 3)
@pytest.mark.parametrize(
    "own",
    [{"first": Shifted}, {"first": Begun}, {"inner": Centred}, {"residual": Halved}],
    ids=lambda own: next(iter(own.values())).__name__,
)
@pytest.mark.parametrize("name", ["ZeRO-3", "TensorParallel", "Hybrid"])
def test_a_layer_with_other_methods_keeps_them(comm, name, own):
    batches = random_batches(net(), rows=5)
    strategy = CATALOG[name](net(**own), SGD(0.1), comm)
    assert_trains_like(Sequential(net(**own), SGD(0.1)), strategy, batches, comm)
    strategy.close()


@pytest.mark.workers(2)
@pytest.mark.parametrize("own", [{}, {"first": Begun}, {"first": Shifted}, {"inner": Centred}])
def test_the_formulas_of_costs_know_which_layers_are_whole(comm, own):
    strategy = TensorParallel(net(**own), SGD(0.1), comm)
    expected = held_by_tensor_parallel(net(**own), comm.size, comm.rank, slots=0)
    assert 2 * strategy.model.params.nbytes == expected
