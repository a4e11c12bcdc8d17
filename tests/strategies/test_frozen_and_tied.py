"""Frozen parameters and tied weights: exact strategies train as plain training and torch do."""

import numpy as np
import pytest

from bench.core.metering import Metered
from nn import SGD, Model
from nn.layers import Conv2d, Flatten, Frozen, Linear, Tanh
from nn.sequences import Sequences
from strategies import Hybrid, Pipeline, Sequential, TensorParallel, ZeRO, costs
from strategies.base import Refused
from tests.support.exact import EXACT
from tests.support.oracles import assert_goes_on_like, assert_trains_like, random_batches

torch = pytest.importorskip("torch")
from torch import nn as tnn  # noqa: E402

from nn.torch.gpt2 import gpt2  # noqa: E402
from nn.torch.model import TorchModel  # noqa: E402


def _chain() -> tnn.Sequential:
    torch.manual_seed(0)
    layers = (tnn.Linear(5, 5), tnn.Tanh(), tnn.Linear(5, 5), tnn.Tanh(), tnn.Linear(5, 5))
    return tnn.Sequential(*layers).double()


def _frozen(*names: str) -> tnn.Sequential:
    net = _chain()
    for name in names:
        net.get_parameter(name).requires_grad_(False)
    return net


def _tied() -> tnn.Sequential:
    net = _chain()
    net[4].weight = net[0].weight
    return net


def _thrice() -> tnn.Sequential:
    """One matrix in all layers, and a bias that the second layer owns and the third borrows."""
    net = _tied()
    net[2].weight, net[4].bias = net[0].weight, net[2].bias
    return net


def _twice() -> tnn.Sequential:
    net = _chain()
    return tnn.Sequential(net[0], net[1], net[2], net[3], net[0])


TORCH = {
    "first": lambda: _frozen("0.weight", "0.bias"),
    "middle": lambda: _frozen("2.weight", "2.bias"),
    "last": lambda: _frozen("4.weight", "4.bias"),
    "bias": lambda: _frozen("2.bias"),
    "tied": _tied,
    "thrice": _thrice,
    "twice": _twice,
}
NUMPY = {
    "first": lambda: [Frozen(Linear(5, 4)), Tanh(), Linear(4, 4), Tanh(), Linear(4, 3)],
    "middle": lambda: [Linear(5, 4), Tanh(), Frozen(Linear(4, 4)), Tanh(), Linear(4, 3)],
    "last": lambda: [Linear(5, 4), Tanh(), Linear(4, 4), Tanh(), Frozen(Linear(4, 3))],
}
BUILD = {f"torch-{name}": lambda net=net: TorchModel(net()) for name, net in TORCH.items()} | {
    f"numpy-{name}": lambda net=net: Model(net(), "float64", seed=1) for name, net in NUMPY.items()
}


def decaying() -> SGD:
    """An optimizer that moves even what has no gradient."""
    return SGD(0.1, momentum=0.9, weight_decay=0.1)


@pytest.mark.workers(1, 2, 3)
@pytest.mark.parametrize("net", BUILD)
@pytest.mark.parametrize("name", EXACT)
def test_strategies_train_alike(comm, name, net):
    try:
        strategy = EXACT[name](BUILD[net](), decaying(), comm)
    except Refused:
        assert "ZeRO" not in name
        assert comm.size > 1 or net in ("torch-tied", "torch-thrice", "torch-twice")
        pytest.skip("refused")
    oracle, batches = Sequential(BUILD[net](), decaying()), random_batches(BUILD[net](), 13)
    assert_trains_like(oracle, strategy, batches, comm)


@pytest.mark.workers(1)
@pytest.mark.parametrize("net", TORCH)
def test_plain_training_is_that_of_torch(net):
    theirs, model = TORCH[net](), TorchModel(TORCH[net]())
    trained = {name: w for name, w in theirs.named_parameters() if w.requires_grad}
    assert [p.name for p in model.parameters] == list(trained)
    strategy = Sequential(model, decaying())
    torchs = torch.optim.SGD(trained.values(), 0.1, momentum=0.9, weight_decay=0.1)
    for batch in random_batches(model, 13, steps=20):
        strategy.step(batch)
        torchs.zero_grad()
        outputs = theirs(torch.from_numpy(batch.x))
        torch.nn.functional.cross_entropy(outputs, torch.from_numpy(batch.y)).backward()
        torchs.step()
    expected = torch.cat([w.detach().ravel() for w in trained.values()]).numpy()
    np.testing.assert_allclose(strategy.weights(), expected, rtol=0, atol=1e-10)


@pytest.mark.workers(1)
def test_a_frozen_convolution_passes_the_gradient_on():
    def build(wrap):
        layers = [Conv2d(1, 2, 3), wrap(Conv2d(2, 2, 3, stride=2, padding=1)), Flatten()]
        return Model([*layers, Linear(8, 3)], "float64", 1, (1, 6, 6))

    free, frozen = build(lambda layer: layer), build(Frozen)
    (batch,) = random_batches(free, 5, steps=1)
    assert free.gradients(batch) == frozen.gradients(batch)
    own = np.r_[0:20, 58 : len(free.params)]
    np.testing.assert_array_equal(free.grads[own], frozen.grads)
    np.testing.assert_array_equal(frozen.frozen["1.weight"].ravel(), free.params[20:56])


@pytest.mark.workers(1, 2)
@pytest.mark.parametrize("net", ["torch-middle", "numpy-first", "torch-tied"])
def test_a_state_keeps_what_is_frozen(comm, net):
    def pipeline(model):
        return Pipeline(model, decaying(), comm, micro_batches=2)

    batches = random_batches(BUILD[net](), 13, steps=4)
    assert_goes_on_like(Sequential(BUILD[net](), decaying()), pipeline(BUILD[net]()), batches)
    state = pipeline(BUILD[net]()).state()
    other = Sequential(BUILD[net](), decaying())
    for value in other.model.frozen.values():
        value[...] = 7
    other.load_state(state)
    for name, value in BUILD[net]().frozen.items():
        np.testing.assert_array_equal(state[f"frozen.{name}"], value)
        np.testing.assert_array_equal(other.model.frozen[name], value)
        with pytest.raises(ValueError, match="frozen parameters"):
            other.load_state({k: v for k, v in state.items() if k != f"frozen.{name}"})


@pytest.mark.workers(1)
def test_frozen_parameters_are_converted_and_not_drawn():
    model = TorchModel(_frozen("0.weight"), seed=1)
    np.testing.assert_array_equal(model.frozen["0.weight"], _chain()[0].weight.detach().numpy())
    single = model.converted("float32")
    assert single.frozen["0.weight"].dtype == np.float32
    assert [p.name for p in single.parameters] == [p.name for p in model.parameters]


@pytest.mark.workers(2, 3)
@pytest.mark.parametrize("how", [{}, {"schedule": "interleaved"}])
def test_a_pipeline_trains_the_published_gpt2(comm, how):
    strategy = Pipeline(_published_gpt2(), decaying(), comm, micro_batches=3, **how)
    _assert_trains_gpt2(strategy, comm)


@pytest.mark.parametrize("stage", [2, 3])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_zero_trains_the_published_gpt2(comm, accumulate, stage):
    strategy = ZeRO(_published_gpt2(), decaying(), comm, stage, accumulate=accumulate)
    _assert_trains_gpt2(strategy, comm)


def _published_gpt2() -> TorchModel:
    def net():
        return gpt2(layers=5, heads=2, width=8, vocabulary=11, context=6, tied=True)

    return TorchModel(net, dtype="float64", input_shape=(6,))


def _assert_trains_gpt2(strategy, comm):
    tokens = np.random.default_rng(0).integers(0, 11, (7, 7))
    oracle = Sequential(_published_gpt2(), decaying())
    assert_trains_like(oracle, strategy, [Sequences(tokens)] * 3, comm)
    assert strategy.grad_norm() == pytest.approx(oracle.grad_norm(), rel=1e-12)


@pytest.mark.workers(1, 2, 3)
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_zero_sends_and_holds_tied_weights_as_the_formulas_say(comm, stage, accumulate):
    net = _thrice()
    net[0].bias = None  # so the largest layer is one that borrows
    metered, model = Metered(comm), TorchModel(net)
    strategy = ZeRO(model, decaying(), metered, stage, accumulate=accumulate)
    first, second = random_batches(model, 13, steps=2)
    strategy.step(first)
    metered.record.clear()
    strategy.step(second)
    where = comm.size, comm.rank, stage
    assert metered.record.sent == costs.sent_by_zero(model, *where, accumulate)
    vectors = (strategy._params, strategy._grads, *strategy.model)
    held = sum(vector.nbytes for vector in vectors if vector.base is None)
    assert held == costs.held_by_zero(model, *where, slots=0)


@pytest.mark.workers(2, 3, 4)
@pytest.mark.parametrize("net", ["torch-first", "torch-tied", "torch-thrice", "numpy-first"])
@pytest.mark.parametrize(
    ("stages", "tensor", "chunks"), [(2, 1, 1), (3, 1, 1), (2, 2, 1), (2, 1, 2)]
)
def test_pipelines_send_and_hold_what_the_formulas_say(comm, net, stages, tensor, chunks):
    """Frozen layers get no gradient, and weights of several stages are copied and summed."""
    if comm.size % (stages * tensor):
        pytest.skip("no such grid")
    grid = comm.size // (stages * tensor), stages, tensor
    cuts = [2, 3, 4] if chunks > 1 else [2, 4][: stages - 1]
    metered, model = Metered(comm), BUILD[net]()
    schedule = "interleaved" if chunks > 1 else "gpipe"
    strategy = Hybrid(model, decaying(), metered, *grid, 2, schedule, cuts, chunks)
    first, second = random_batches(model, 13, steps=2)
    strategy.step(first)
    metered.record.clear()
    strategy.step(second)
    assert metered.record.sent == costs.sent_by_hybrid(model, cuts, grid, comm.rank, 13)
    held = strategy.model.params.nbytes + strategy._data._buffer.nbytes
    assert held == costs.held_by_hybrid(model, cuts, grid, comm.rank, slots=0)
    strategy.close()


@pytest.mark.workers(2, 3)
@pytest.mark.parametrize("net", BUILD)
def test_tensor_parallelism_sends_and_holds_what_the_formulas_say(comm, net):
    metered, model = Metered(comm), BUILD[net]()
    strategy = TensorParallel(model, decaying(), metered)
    first, second = random_batches(model, 13, steps=2)
    strategy.step(first)
    metered.record.clear()
    strategy.step(second)
    where = comm.size, comm.rank
    assert metered.record.sent == costs.sent_by_tensor_parallel(model, *where, 13)
    held = strategy.model.params.nbytes + strategy.model.grads.nbytes
    assert held == costs.held_by_tensor_parallel(model, *where, slots=0)


@pytest.mark.workers(2)
def test_frozen_values_that_differ_between_ranks_are_refused(comm):
    model = BUILD["numpy-first"]()
    next(iter(model.frozen.values()))[...] = comm.rank
    with pytest.raises(ValueError, match="the ranks' models differ"):
        Pipeline(model, decaying(), comm)
