"""Under every strategy a torch net learns the weights of sequential training and of plain torch."""

import copy
from functools import cache, partial

import numpy as np
import pytest
import torch
from torch import nn as tnn

from nn import SGD, Adam
from nn.lr_schedules import linear
from nn.torch import layer as torch_layer
from nn.torch.model import TorchModel
from strategies import (
    DataParallel,
    Hogwild,
    Pipeline,
    Sequential,
    SharedDataParallel,
    TensorParallel,
)
from tests.nn.torch.nets import NETS, STRATEGIES, build, every_net, every_strategy, reused, trained
from tests.support.exact import OF_OWN_LOSS
from tests.support.optimizers import momentum
from tests.support.oracles import assert_trains_like, random_batches
from tests.support.small_nets import Reused


@every_strategy
@every_net
def test_equals_sequential(comm, strategy, net):
    parallel, oracle = (
        STRATEGIES[strategy](reused(net)(), momentum(), comm),
        copy.copy(trained(net)),
    )
    own_loss = strategy in OF_OWN_LOSS
    assert_trains_like(oracle, parallel, oracle.batches, comm, own_loss=own_loss)
    parallel.close()


@cache
def deep():
    """A deep net, and its steps in plain training: batch, state, weights before and after."""
    layers = [tnn.Linear(5, 4), tnn.ReLU()]
    for _ in range(10):
        layers += [tnn.Linear(4, 4), tnn.Tanh()]
    model = TorchModel([*layers, tnn.Linear(4, 3)], dtype="float64", seed=4)
    oracle, path = Sequential(copy.deepcopy(model), SGD(0.5)), []
    for batch in random_batches(model, 2, steps=6):
        state, before = oracle.state(), oracle.weights()
        oracle.step(batch)
        path.append((batch, state, before, oracle.weights()))
    return Reused(model), path


@pytest.mark.parametrize(
    "strategy",
    [name for name in STRATEGIES if name != "TopK-all"],  # its state has more than the oracle's
)
def test_a_chaotic_net_gradient_by_gradient(comm, strategy):
    """Rounding grows in twelve narrow layers, so every step begins from the state of the oracle."""
    model, path = deep()
    parallel = STRATEGIES[strategy](model(), SGD(0.5), comm)
    for batch, state, before, after in path:
        parallel.load_state(state)
        parallel.step(batch)
        moved = after - before
        difference = np.abs(parallel.weights() - before - moved).max()
        assert difference <= 1e-12 * np.abs(moved).max() + 1e-15
        assert moved.any()
    parallel.close()


@pytest.mark.workers(1)
@every_net
@pytest.mark.parametrize(
    ("optimizer", "theirs"),
    [
        (momentum, partial(torch.optim.SGD, lr=0.1, momentum=0.9)),
        (lambda: Adam(1e-2), partial(torch.optim.Adam, lr=1e-2)),
    ],
    ids=["momentum", "adam"],
)
def test_equals_a_plain_torch_loop(net, optimizer, theirs):
    model = build(net)
    plain = copy.deepcopy(model.module)
    ours, optimizer_of_torch = Sequential(model, optimizer()), theirs(plain.parameters())
    for batch in random_batches(model, 9, steps=10):
        optimizer_of_torch.zero_grad()
        expected = tnn.functional.cross_entropy(
            plain(torch.from_numpy(batch.x)), torch.from_numpy(batch.y)
        )
        expected.backward()
        optimizer_of_torch.step()
        assert ours.step(batch) == pytest.approx(expected.item(), rel=1e-12)
    weights = torch.cat([weight.detach().ravel() for weight in plain.parameters()]).numpy()
    np.testing.assert_allclose(ours.weights(), weights, rtol=0, atol=1e-12)


def test_hogwild_with_a_torch_model(comm):
    """One rank equals Sequential; several reach a low loss, in whatever order they write.

    They keep step with each other, because a rank that ran alone last would fit its own rows. The
    learning rate falls to 0: else the order of the last few updates decides the loss.
    """
    (batch,) = random_batches(build("residual"), 12, steps=1)
    hogwild = Hogwild(build("residual"), SGD(linear(0.1, 60)), comm)
    oracle = Sequential(build("residual"), SGD(linear(0.1, 60)))
    losses = [oracle.step(batch) for _ in range(60)]
    assert losses[-1] < losses[0] / 2
    for _ in range(60):
        hogwild.step(batch)
        comm.Barrier()
    weights = hogwild.weights()
    if comm.size == 1:
        np.testing.assert_array_equal(weights, oracle.weights())
    model = build("residual")
    model.params[:] = weights
    assert model.gradients(batch) < losses[0] / 2
    assert hogwild.updates == 60 * comm.size
    hogwild.close()


@pytest.mark.workers(2)
def test_equals_sequential_in_float32(comm):
    def single():
        return TorchModel(NETS["linear"][0](), seed=2)

    parallel = SharedDataParallel(single(), momentum(), comm)
    batches = random_batches(single(), 33, steps=5)
    assert single().params.dtype == np.float32
    assert_trains_like(Sequential(single(), momentum()), parallel, batches, comm, tolerance=1e-5)
    parallel.close()


@pytest.mark.workers(2)
def test_one_model_by_one_strategy_after_the_other(comm):
    """Layers that one strategy has joined are joined anew for the rows of the next strategy."""
    model = build("linear")
    start = model.params.copy()
    for make in (TensorParallel, partial(Pipeline, micro_batches=2, cuts=[1]), DataParallel):
        model.bind(start.copy(), np.zeros_like(start))
        parallel = make(model, momentum(), comm)
        oracle = Sequential(build("linear"), momentum())
        assert_trains_like(oracle, parallel, random_batches(oracle.model, 7, steps=2), comm)
        parallel.close()


@pytest.mark.workers(2)
@pytest.mark.parametrize(
    ("make", "copied"),
    [
        (partial(Pipeline, micro_batches=2, cuts=[3]), (3, 4)),
        # TensorParallel makes its Linears anew from parts.
        (TensorParallel, (3, 3)),
    ],
    ids=["Pipeline", "TensorParallel"],
)
def test_a_rank_copies_its_own_layers_alone(comm, make, copied, monkeypatch):
    model, copies = build("linear"), []
    copy_of = torch_layer.TorchLayer.__copy__
    monkeypatch.setattr(
        torch_layer.TorchLayer, "__copy__", lambda layer: copies.append(layer) or copy_of(layer)
    )
    make(model, momentum(), comm).close()
    assert len(copies) == copied[comm.rank]
