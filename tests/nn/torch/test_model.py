"""Torch modules, under every strategy, learn what they learn in a plain torch loop."""

import copy
import random
import warnings
from contextlib import nullcontext
from functools import cache, partial
from types import MethodType, SimpleNamespace

import numpy as np
import pytest
import torch
from mpi4py import MPI
from torch import nn as tnn

import nn
from nn import SGD, Adam, Batch
from nn.sequences import Sequences
from nn.torch import layer as torch_layer
from nn.torch import row_check
from nn.torch.embedding import take_floats
from nn.torch.model import TorchModel, devices
from strategies import (
    DataParallel,
    Hogwild,
    Pipeline,
    Sequential,
    SharedDataParallel,
    TensorParallel,
)
from strategies.base import Refused
from tests.support.exact import EXACT, OF_OWN_LOSS
from tests.support.optimizers import momentum
from tests.support.oracles import Recorded, assert_trains_like, random_batches
from tests.support.small_nets import Reused

torch.set_num_threads(1)


class Block(tnn.Module):
    """x + f(x), one layer."""

    def __init__(self, width):
        super().__init__()
        self.f = tnn.Sequential(
            tnn.ReLU(inplace=True), tnn.Linear(width, width), tnn.LayerNorm(width)
        )

    def forward(self, x):
        return x + self.f(x)


class Detached(tnn.Module):
    """A frozen feature: what comes before it has a gradient of 0."""

    def forward(self, x):
        return x.detach() + 1


class Constant(tnn.Module):
    """Trained, and blind to its input."""

    def __init__(self):
        super().__init__()
        self.line = tnn.Linear(1, 4)

    def forward(self, x):
        return self.line(x.new_ones(len(x), 1))


def without_gradient(module):
    """A first layer behind which `module` lets no gradient through."""
    return lambda: tnn.Sequential(tnn.Linear(5, 4), module(), tnn.Tanh(), tnn.Linear(4, 3))


def repeated():
    """Modules that stand twice, in a Sequential and in one inside of it."""
    relu, flat = tnn.ReLU(), tnn.Flatten()
    inner = tnn.Sequential(tnn.Linear(4, 4), relu, flat)
    return tnn.Sequential(tnn.Linear(5, 4), relu, inner, tnn.Linear(4, 4), relu, flat)


class Opaque(tnn.Module):
    """What is inside, as one layer."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x)


NETS = {
    "linear": (
        lambda: tnn.Sequential(
            *(tnn.Linear(5, 6), tnn.Tanh(), tnn.Linear(6, 4, bias=False), tnn.ReLU(inplace=True)),
            *(tnn.Linear(4, 2), tnn.GELU(), tnn.Linear(2, 3)),  # fewer neurons than ranks
        ),
        (5,),
    ),
    "conv": (
        lambda: tnn.Sequential(
            *(tnn.Conv2d(2, 3, 3, padding=1), tnn.MaxPool2d(2), tnn.ReLU()),
            *(tnn.Conv2d(3, 4, 2), tnn.Tanh(), tnn.Flatten(), tnn.Linear(16, 3)),
        ),
        (2, 6, 6),
    ),
    "residual": (
        lambda: tnn.Sequential(tnn.Linear(5, 4), Block(4), Block(4), tnn.Linear(4, 3)),
        (5,),
    ),
    "repeated": (repeated, (5,)),
    "detached": (without_gradient(Detached), (5,)),
    "constant": (without_gradient(Constant), (5,)),
}
every_net = pytest.mark.parametrize("net", NETS)

STRATEGIES = EXACT | OF_OWN_LOSS
every_strategy = pytest.mark.parametrize("strategy", STRATEGIES)


def build(net="linear", **arguments):
    make, shape = NETS[net]
    return TorchModel(make(), dtype="float64", seed=1, input_shape=shape, **arguments)


@cache
def reused(net):
    return Reused(build(net))


@cache
def trained(net):
    """Plain training: 7 rows are uneven shards, 2 rows leave some empty."""
    oracle = Sequential(build(net), momentum())
    return Recorded(
        oracle, [b for rows in (7, 2) for b in random_batches(oracle.model, rows, steps=2)]
    )


# Equality


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
    """A net, and steps of plain training: batch, state before, weights before and after."""
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
    [name for name in STRATEGIES if name != "TopK-all"],  # which has a state of its own
)
def test_a_chaotic_net_gradient_by_gradient(comm, strategy):
    """Twelve narrow layers, with batches of 2 rows: every step from the state of the oracle."""
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
    """One rank is Sequential; several reach a low loss, whoever writes last.

    They keep step with each other: the last to run alone would fit the rows of its own.
    """
    (batch,) = random_batches(build("residual"), 12, steps=1)
    hogwild = Hogwild(build("residual"), SGD(0.1), comm)
    oracle = Sequential(build("residual"), SGD(0.1))
    losses = [oracle.step(batch) for _ in range(60)]
    assert losses[-1] < losses[0] / 2.5
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


# One vector


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
    """It sets `.grad` to None, which cuts off a view that lies there."""
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
    """Writes into its input."""

    def forward(self, x):
        x -= x.mean(dim=-1, keepdim=True)
        return x


@pytest.mark.workers(1)
@pytest.mark.parametrize("by_layer", [False, True])
def test_a_module_that_writes_into_its_input_writes_into_a_copy(by_layer):
    def build(module):
        layers = [module(), tnn.Linear(4, 4), module(), tnn.Linear(4, 3)]
        return TorchModel(layers, dtype="float64", input_shape=(4,))

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


class Placed(tnn.Module):
    """The embedding of the place is declared before anything is computed of x."""

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
@pytest.mark.parametrize(("dtype", "largest"), [("float32", 2**24), ("float64", 2**53)])
def test_a_table_of_more_rows_than_floats_can_number_is_refused(dtype, largest):
    """It is one without memory."""

    def table(rows):
        with torch.device("meta"):
            return tnn.Embedding(rows, 1, dtype=getattr(torch, dtype))

    take_floats(table(largest))
    with pytest.raises(ValueError, match=f"more than {largest} rows, which torch.{dtype} cannot"):
        take_floats(table(largest + 1))


# Copies


@pytest.mark.workers(1)
def test_converted_is_the_same_model_in_another_dtype():
    """Arguments, dropout's masks and all; and nothing in common."""

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


# Initial parameters


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
    drawn, again = TorchModel(net, input_shape=(5,)), TorchModel(factory(), input_shape=(5,))
    np.testing.assert_array_equal(drawn.params, again.params)
    kept = TorchModel(net, input_shape=(5,), seed=None)
    theirs = torch.cat([weight.detach().ravel() for weight in net.parameters()])
    np.testing.assert_array_equal(kept.params, theirs.numpy())
    given = TorchModel(net, input_shape=(5,), params=one.params)
    np.testing.assert_array_equal(given.params, one.params)


@pytest.mark.workers(1)
def test_layers_of_one_shape_do_not_start_equal():
    model = TorchModel([tnn.Linear(5, 5), tnn.Linear(5, 5)])
    assert not np.array_equal(*np.split(model.params, 2))


# Devices and precisions


@pytest.mark.workers(1, 2)
def test_devices_learn_the_same(comm, device):
    """`device` is parametrized by the plugin bench.user_code.devices."""

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
    """Played by the CPU: modules hold copies of their parameters and compute on these."""
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
    """On one rank to the bit, where no bias is added after the sum instead of in the product."""

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
    # Steps of 1e-5 are nothing to a bfloat16 near 1, and do add up in the parameters.
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


# What is refused


def tied():
    net = tnn.Sequential(tnn.Linear(4, 4), tnn.Tanh(), tnn.Linear(4, 4))
    net[2].weight = net[0].weight
    return net


def twice():
    linear = tnn.Linear(4, 4)
    return tnn.Sequential(linear, tnn.Tanh(), linear)


def weight_norm():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return torch.nn.utils.weight_norm(tnn.Linear(3, 2))


class Less(tnn.Module):
    """Each row minus the mean of all."""

    def forward(self, x):
        return x - x.mean(dim=0)


class Ragged(tnn.Module):
    """As many features as the row needs that needs most."""

    def forward(self, x):
        return x[:, : int((x != 0).sum(dim=1).max())]


class Tagger(tnn.Module):
    """An LSTM that takes rows for places in a sequence."""

    def __init__(self):
        super().__init__()
        self.words, self.lstm = tnn.Embedding(9, 4), tnn.LSTM(4, 4)

    def forward(self, x):
        return self.lstm(self.words(x))[0]


class Gated(tnn.Module):
    """x + gate * attention(x) that takes rows for places in a sequence; the gate begins (nearly) 0.

    Bachlechner et al., "ReZero is all you need" (2020).
    """

    def __init__(self, gate):
        super().__init__()
        self.gate = tnn.Parameter(torch.tensor(gate))
        self.attention = tnn.MultiheadAttention(4, 1)

    def forward(self, x):
        return x + self.gate * self.attention(x, x, x)[0]


class LessInTraining(Less):
    def forward(self, x):
        return super().forward(x) if self.training else x


class Shifted(tnn.BatchNorm1d):
    def forward(self, x):
        return super().forward(x) + 1


class Scaled(tnn.Dropout):
    def forward(self, x):
        return 7 * x


class Viewed(tnn.Module):
    def forward(self, x):
        return x.view(len(x), -1)


def with_hook(module):
    module.register_forward_hook(lambda module, inputs, output: output + 1)
    return module


def patched(module):
    """Its `forward` is replaced in this one object."""
    module.forward = MethodType(lambda self, x: type(self).forward(self, x) + 1, module)
    return module


SYNCHRONISED = {"input_shape": (4,), "sync_batch_norm": MPI.COMM_SELF}
OF_TWO = SimpleNamespace(Allreduce=MPI.COMM_SELF.Allreduce, size=2)


def frozen():
    net = tnn.Sequential(tnn.Linear(4, 4), tnn.Linear(4, 3))
    net[0].weight.requires_grad_(False)
    return net


class Pair(tnn.Module):
    def forward(self, x):
        return x, x


class Total(tnn.Module):
    def forward(self, x):
        return x.sum()


class Raw(tnn.Module):
    def __init__(self):
        super().__init__()
        self.weight = tnn.Parameter(torch.ones(4))

    def forward(self, x):
        return x * self.weight


@pytest.mark.workers(1)
@pytest.mark.parametrize(
    ("modules", "arguments", "error", "message"),
    [
        (3, {}, TypeError, "expected a torch.nn.Sequential"),
        ([tnn.Linear(3, 2), np.tanh], {}, TypeError, "list of modules"),
        ([], {}, ValueError, "no layers"),
        (tied(), {}, ValueError, "weight of layer 2 is weight of layer 0: layers share no weights"),
        (twice(), {}, ValueError, "weight of layer 2 is weight of layer 0: layers share no"),
        (frozen(), {}, ValueError, "does not require a gradient"),
        (tnn.Linear(3, 2).half(), {}, ValueError, r"float16: expected all float32 .* dtype="),
        (
            [tnn.Linear(3, 2), tnn.Linear(2, 2).double()],
            {},
            ValueError,
            "float32, float64: expected all",
        ),
        (tnn.Linear(3, 2), {"dtype": "float16"}, ValueError, "expected one of float32, float64"),
        (weight_norm(), {}, ValueError, "cannot be copied: .*parametrizations in the place of"),
        (Less(), {"input_shape": (4,)}, ValueError, r"Less\(\) mixes rows of shape \(4,\): of two"),
        (Ragged(), {"input_shape": (9,)}, ValueError, "mixes rows"),
        (Tagger(), {"input_shape": (5,)}, ValueError, "mixes rows"),
        (
            tnn.TransformerEncoderLayer(4, 1, 8, dropout=0.0),
            {"input_shape": (5, 4)},
            ValueError,
            r"TransformerEncoderLayer\(...\) mixes rows",
        ),
        (
            [tnn.Conv2d(2, 4, 3), tnn.Flatten()],
            {"input_shape": (28, 28)},
            ValueError,
            r"layer 0: Conv2d\(.*\) cannot take rows of shape \(28, 28\)",
        ),
        (tnn.LazyLinear(3), {}, ValueError, "weight has no shape yet"),
        (
            tnn.LazyBatchNorm1d(affine=False),
            {},
            ValueError,
            "running_mean has no shape yet: call the lazy module on rows first",
        ),
        (tnn.Conv2d(1, 1, 3), {}, ValueError, r"input_shape=\.\.\. of one row"),
        (tnn.Linear(3, 2), {"input_shape": (4,)}, ValueError, r"rows of shape \(4,\)"),
        (Pair(), {"input_shape": (4,)}, ValueError, "makes tuple of two rows"),
        (Total(), {"input_shape": (4,)}, ValueError, r"makes shape \(\) of two rows"),
        (Raw(), {"input_shape": (4,)}, ValueError, "no reset_parameters"),
        (tnn.Linear(3, 2), {"compute": "float16"}, ValueError, 'expected None, or "bfloat16"'),
        (
            tnn.Linear(3, 2),
            {"compute": "bfloat16", "dtype": "float64"},
            ValueError,
            "parameters of float64",
        ),
        (tnn.Linear(3, 2), {"seed": 1.5}, TypeError, "seed=1.5"),
        (tnn.Linear(3, 2), {"params": np.zeros(3)}, ValueError, "params"),
        (tnn.Linear(3, 2), {"sync_batch_norm": True}, TypeError, "communicator"),
        (lambda: Gated(0.0), {"input_shape": (3, 4)}, ValueError, "mixes rows"),
        (lambda: Gated(1e-6), {"input_shape": (3, 4)}, ValueError, "mixes rows"),
        (
            lambda: Gated(0.02),  # less than bfloat16 rounds
            {"input_shape": (3, 4), "compute": "bfloat16"},
            ValueError,
            "mixes rows",
        ),
        (LessInTraining(), {"input_shape": (4,)}, ValueError, "mixes rows"),
        (tnn.Dropout2d(), {"input_shape": (4,)}, ValueError, "use torch.nn.Dropout"),
        (Scaled(), {"input_shape": (4,)}, ValueError, "0, Scaled, drops .*Dropout itself"),
        (with_hook(tnn.Dropout()), {"input_shape": (4,)}, ValueError, "Dropout itself, without"),
        (patched(tnn.Dropout()), {"input_shape": (4,)}, ValueError, "Dropout itself, without"),
        (
            Shifted(4),
            SYNCHRONISED,
            ValueError,
            r"cannot replace Shifted\(4.*BatchNorm1d to 3d them",
        ),
        (with_hook(tnn.BatchNorm1d(4)), SYNCHRONISED, ValueError, "themselves, without hooks"),
        (patched(tnn.BatchNorm1d(4)), SYNCHRONISED, ValueError, "themselves, without hooks"),
        (
            [tnn.BatchNorm1d(4), Viewed()],
            {"input_shape": (4,), "sync_batch_norm": OF_TWO},
            ValueError,
            r"take 0 rows .*flatten\(x, 1\)",
        ),
        (tnn.Embedding(9, 4, max_norm=1.0), {"input_shape": (4,)}, ValueError, "max_norm=None"),
        (
            tnn.EmbeddingBag(9, 4, scale_grad_by_freq=True),
            {"input_shape": (4,)},
            ValueError,
            "expected scale_grad_by_freq=False",
        ),
    ],
)
def test_what_cannot_be_wrapped_is_refused(modules, arguments, error, message):
    with pytest.raises(error, match=message):
        TorchModel(modules, **arguments)


@pytest.mark.workers(1)
@pytest.mark.parametrize(
    ("dtype", "compute"), [("float32", None), ("float32", "bfloat16"), ("float64", None)]
)
def test_modules_that_keep_rows_apart_are_taken(dtype, compute):
    """By the trial of rows together and alone: deep nets round, and batch norm is known to mix."""
    deep = [tnn.Sequential(tnn.Linear(64, 64), tnn.ReLU()) for _ in range(50)]
    for module, shape in (
        (Opaque(tnn.Sequential(*deep)), (64,)),
        (tnn.TransformerEncoderLayer(4, 1, 8, dropout=0.0, batch_first=True), (5, 4)),
        (tnn.Sequential(tnn.Embedding(2, 4), tnn.Flatten(0, 1)), (5,)),
        (tnn.BatchNorm1d(4), (4,)),
        (tnn.BatchNorm1d(4, track_running_stats=False), (4,)),
        (tnn.ReLU(), (0,)),
    ):
        assert TorchModel(module, dtype=dtype, input_shape=shape, compute=compute)


@pytest.mark.workers(1)
def test_values_that_are_not_finite_do_not_look_like_mixed_rows():
    for value in (np.nan, np.inf):
        net = Opaque(tnn.Linear(4, 3))
        net.inner.weight.data[:2] = value
        assert TorchModel(net, seed=None, input_shape=(4,))


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
        return TorchModel(layers, dtype="float64")

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


@pytest.mark.workers(1)
def test_parameters_without_reset_are_taken_from_a_function():
    model = TorchModel(lambda: [Raw(), tnn.Linear(4, 3)], input_shape=(4,))
    np.testing.assert_array_equal(model.params[:4], 1)


class Noise(tnn.Module):
    def __init__(self, draw):
        super().__init__()
        self.draw = draw

    def forward(self, x):
        return x + self.draw(x)


class Clipped(tnn.Module):
    """Changes its parameters as it computes."""

    def __init__(self):
        super().__init__()
        self.line = tnn.Linear(2, 2)

    def forward(self, x):
        with torch.no_grad():
            self.line.weight.clamp_(-0.1, 0.1)
        return self.line(x)


@pytest.mark.workers(1)
@pytest.mark.parametrize(
    ("module", "changed"),
    [
        (tnn.RReLU(), "torch's random"),
        (Noise(torch.rand_like), "torch's random"),
        (Noise(lambda x: random.random()), "python's random"),
        (Noise(lambda x: np.random.standard_normal()), "numpy's random"),  # noqa: NPY002
        (tnn.InstanceNorm1d(4, affine=True, track_running_stats=True), "0.running_mean"),
        (Clipped(), "0.line.weight"),
    ],
    ids=["random in training", "torch", "python", "numpy", "statistics", "parameters"],
)
def test_what_depends_on_how_rows_are_split_is_refused_when_it_shows(module, changed):
    model = TorchModel([module, tnn.Flatten(), tnn.Linear(8, 3)], input_shape=(4, 2))
    with pytest.raises(ValueError, match=rf"{changed}.* depends on how rows are split"):
        model.gradients(*random_batches(model, 4, steps=1))


@pytest.mark.workers(1)
def test_where_no_rank_can_be_without_rows_modules_need_not_take_none():
    model = TorchModel([tnn.BatchNorm1d(4), Viewed(), tnn.Linear(4, 3)], **SYNCHRONISED)
    assert np.isfinite(model.gradients(*random_batches(model, 4, steps=1)))


class Positions(tnn.Module):
    """Keeps a table that it makes when it first sees rows."""

    def __init__(self, grows):
        super().__init__()
        self.register_buffer("table", None)
        self.grows = grows

    def forward(self, x):
        if self.table is None:
            self.table = torch.arange(x[0].numel(), dtype=x.dtype).view_as(x[0])
        if self.grows:
            self.table += 1
        return x + self.table


@pytest.mark.workers(1)
def test_a_table_may_be_made_at_the_first_call_but_not_change_at_the_next():
    for grows in (False, True):
        model = TorchModel(
            [Positions(grows), tnn.Flatten(), tnn.Linear(8, 3)], input_shape=(4, 2), seed=None
        )
        first, second, third = random_batches(model, 4)
        model.gradients(first)
        refused = pytest.raises(ValueError, match="table as it computes")
        with refused if grows else nullcontext():
            model.gradients(second)
            model.gradients(third)


class WrittenForAutocast(tnn.Module):
    """Computes in bfloat16 by itself, and counts on autocast for the rest."""

    def __init__(self, mixes=False):
        super().__init__()
        self.line, self.mixes = tnn.Linear(4, 4), mixes

    def forward(self, x):
        y = self.line(torch.tanh(x).bfloat16()).float()
        return y + y.mean(0) if self.mixes else y


@pytest.mark.workers(1)
def test_a_module_that_needs_autocast_is_tried_with_it():
    def make(mixes):
        modules = [WrittenForAutocast(mixes), tnn.Linear(4, 3)]
        return TorchModel(modules, input_shape=(4,), compute="bfloat16")

    model = make(False)
    assert np.isfinite(model.gradients(*random_batches(model, 5, steps=1)))
    with pytest.raises(ValueError, match="mixes rows"):
        make(True)


@pytest.mark.workers(1)
def test_other_generators_of_numpy_are_watched_too():
    before = np.random.get_bit_generator()
    np.random.set_bit_generator(np.random.PCG64(1))
    try:
        noise = Noise(lambda x: np.random.random())  # noqa: NPY002
        model = TorchModel([noise, tnn.Linear(4, 3)], input_shape=(4,))
        with pytest.raises(ValueError, match="numpy's random"):
            model.gradients(*random_batches(model, 4, steps=1))
    finally:
        np.random.set_bit_generator(before)


@pytest.mark.workers(1)
def test_of_no_rows_nothing_shows_yet():
    """A rank may have none at first, where batch norm is synchronised."""
    layer = torch_layer.TorchLayer(Noise(torch.rand_like))
    layer._collective = True
    layer.forward(np.empty((0, 4), "float32"))
    with pytest.raises(ValueError, match="depends on how rows are split"):
        layer.forward(np.ones((3, 4), "float32"))


@pytest.mark.workers(1)
def test_a_device_has_random_numbers_of_its_own(monkeypatch):
    """Two of them, played; a module may draw of the host's generator all the same."""
    drawn = {"cuda:0": 0, "cuda:1": 0}
    monkeypatch.setattr(
        torch.cuda, "get_rng_state", lambda device: torch.tensor(drawn[str(device)])
    )
    states = []
    for draw in (lambda: None, lambda: drawn.update({"cuda:1": 1}), lambda: torch.rand(1)):
        draw()
        states.append(row_check.generator_states(torch.device("cuda:1")))
    assert states[0].keys() == states[1].keys() == states[2].keys()
    for before, after, whose in zip(states, states[1:], ("the device's", "torch's")):
        assert [name for name in after if after[name] != before[name]] == [
            f"{whose} random generator"
        ]


@pytest.mark.workers(2)
def test_a_stage_that_cannot_be_copied_is_an_error_on_every_rank(comm):
    """Nobody waits for the rank that alone has it."""
    model = TorchModel([tnn.Linear(4, 4), tnn.Tanh(), tnn.Linear(4, 3)], seed=1)
    model.layers[2].module.kept = torch.ones(2, requires_grad=True) * 2  # of a graph
    with pytest.raises(RuntimeError, match="deepcopy"):
        Pipeline(model, momentum(), comm, 2, cuts=[1])


@pytest.mark.workers(2)
def test_a_pipeline_of_one_module_says_why_not(comm):
    model = TorchModel(Block(4), input_shape=(4,))
    with pytest.raises(ValueError, match="a torch module that is no Sequential is one layer"):
        Pipeline(model, momentum(), comm)


@pytest.mark.workers(2, 3)
def test_a_pipeline_is_not_cut_behind_a_layer_that_makes_more_rows(comm):
    """On every rank, before any of them waits for a message; and where it is last, it trains."""

    def make(*behind):
        layers = tnn.Embedding(7, 4), tnn.Tanh(), tnn.Linear(4, 7), tnn.Flatten(0, 1), *behind
        return TorchModel([*layers], dtype="float64", input_shape=(5,))

    with pytest.raises(Refused, match="layer 3 makes 5 rows of each: a pipeline cannot be cut"):
        Pipeline(make(tnn.Tanh()), momentum(), comm, cuts=[1, 4][-comm.size + 1 :])
    with pytest.raises(Refused, match=r"layer 3 makes several rows .* expected at most 4"):
        Pipeline(make(*8 * [tnn.Tanh()]), momentum(), comm, schedule="interleaved", chunks=3)
    batch = Sequences(np.random.default_rng(0).integers(0, 7, (4, 6)))
    costly = tnn.Linear(7, 2048), tnn.Tanh(), tnn.Linear(2048, 7)
    for cuts, behind in (([1, 2][: comm.size - 1], ()), ("auto", costly)):
        parallel = Pipeline(make(*behind), momentum(), comm, cuts=cuts)
        oracle = Sequential(make(*behind), momentum())
        assert_trains_like(oracle, parallel, [batch] * 2, comm)
        parallel.close()


@pytest.mark.workers(2)
def test_one_model_by_one_strategy_after_the_other(comm):
    """The layers of a stage are joined for its rows, whatever rows they had in the one before."""
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
        # Its Linears are made anew, of their parts.
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
