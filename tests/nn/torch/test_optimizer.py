"""`TorchOptimizer` moves as torch's own optimizer does, whole, in slices, and after a resume."""

import copy
import math

import numpy as np
import pytest
import torch

from nn import EMA, lr_schedules
from nn.optim import Part, why_not_elementwise
from nn.parameters import NO_GRADIENT
from nn.torch import TorchOptimizer

pytestmark = pytest.mark.workers(1)

RATE, STEPS = 0.05, 20
NOT_OF_A_GRADIENT = {"LBFGS", "SparseAdam"}
NOT_ELEMENTWISE = {"Adafactor", "Muon"}
OPTIONS = {
    "SGD": {"momentum": 0.9, "dampening": 0.5, "weight_decay": 0.1},
    "RMSprop": {"momentum": 0.9, "centered": True},
    "Adam": {"amsgrad": True},
    "Rprop": {"step_sizes": (1e-6, 1.0)},
}
"""Options that make an optimizer keep more than it does without."""


def _public(module):
    for name in sorted(module.__all__):
        kind = getattr(module, name)
        if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer):
            yield name, kind


KINDS = dict(_public(torch.optim))
del KINDS["Optimizer"]
TAKEN = {name: kind for name, kind in KINDS.items() if name not in NOT_OF_A_GRADIENT}
SHAPES = {"0.weight": (5, 3), "0.bias": (5,), "conv.weight": (2, 1, 2, 2), "head.weight": (2, 5)}
MATRICES = {name: shape for name, shape in SHAPES.items() if len(shape) == 2}


def shapes_for(name):
    return MATRICES if name == "Muon" else SHAPES


def parts_for(name):
    return [Part(each, math.prod(shape), shape) for each, shape in shapes_for(name).items()]


def length_for(name):
    return sum(part.size for part in parts_for(name))


def factory_of(name):
    return lambda params: TAKEN[name](params, lr=RATE, **OPTIONS.get(name, {}))


def groups_of(name):
    decay = [("0.*", {"weight_decay": 0.2})] if has_decay(name) else []
    return [*decay, ("head.*", {"lr": lr_schedules.cosine(0.02, STEPS)})]


def has_decay(name):
    probe = TAKEN[name]([torch.nn.Parameter(torch.zeros(1, 1))], lr=RATE)
    return "weight_decay" in probe.param_groups[0]


def gradients(length, count=STEPS, dtype="float64"):
    rng = np.random.default_rng(1)
    scale = np.geomspace(1e-3, 3, length)
    return [(rng.standard_normal(length) * scale).astype(dtype) for _ in range(count)]


def start_of(length, dtype="float64"):
    return np.random.default_rng(0).standard_normal(length).astype(dtype)


def split(vector, parts):
    ends = np.cumsum([part.size for part in parts])[:-1]
    return [piece.reshape(part.shape) for piece, part in zip(np.split(vector, ends), parts)]


@pytest.mark.parametrize("clip", [{}, {"clip_norm": 2.0}, {"clip_value": 0.5}], ids=str)
@pytest.mark.parametrize("name", TAKEN)
def test_equal_to_torchs_loop_with_groups_clipping_and_schedules(name, clip):
    parts = parts_for(name)
    params = start_of(length_for(name))
    schedule = lr_schedules.warmup(RATE, 5)
    ours = TorchOptimizer(factory_of(name), schedule, groups=groups_of(name), **clip)
    ours.assign(parts)

    twins = [torch.nn.Parameter(torch.tensor(piece)) for piece in split(params, parts)]
    theirs = factory_of(name)(twins)
    (group,) = theirs.param_groups
    own = {"0": {"weight_decay": 0.2}} if has_decay(name) else {}
    theirs.param_groups[:] = [
        {**group, **own.get(part.name.split(".")[0], {}), "params": [twin]}
        for part, twin in zip(parts, twins)
    ]
    for step, grads in enumerate(gradients(len(params))):
        ours.step(params, grads.copy())
        for twin, piece in zip(twins, split(grads, parts)):
            twin.grad = torch.tensor(piece)
        if "clip_norm" in clip:
            torch.nn.utils.clip_grad_norm_(twins, clip["clip_norm"])
        if "clip_value" in clip:
            torch.nn.utils.clip_grad_value_(twins, clip["clip_value"])
        for part, group in zip(parts, theirs.param_groups):
            head = part.name.startswith("head")
            group["lr"] = lr_schedules.cosine(0.02, STEPS)(step) if head else schedule(step)
        theirs.step()
    for twin, piece in zip(twins, split(params, parts)):
        np.testing.assert_allclose(piece, twin.detach().numpy(), rtol=1e-10, atol=1e-13)
    assert np.abs(params - start_of(len(params))).max() > 1e-3


@pytest.mark.parametrize("vector", [np.array, torch.from_numpy], ids=["numpy", "torch"])
@pytest.mark.parametrize("name", [name for name in TAKEN if name not in NOT_ELEMENTWISE])
def test_slices_move_as_the_whole(name, vector):
    length = length_for(name)
    whole, pieces = vector(start_of(length)), vector(start_of(length))
    cuts = [slice(0, 7), slice(7, 7), slice(7, length)]
    optimizer = TorchOptimizer(factory_of(name))
    optimizer.assign(parts_for(name))
    movers = [TorchOptimizer(factory_of(name)) for _ in cuts]
    for grads in gradients(length):
        optimizer.step(whole, vector(grads))
        for cut, mover in zip(cuts, movers):
            mover.step(pieces[cut], vector(grads.copy())[cut])
    np.testing.assert_allclose(np.asarray(pieces), np.asarray(whole), rtol=1e-12, atol=1e-15)
    assert {name: len(v) for name, v in movers[1].state.items()} == dict.fromkeys(
        optimizer.slots, 0
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", TAKEN)
def test_a_copy_and_a_resumed_training_go_on_to_the_bit(name, dtype):
    parts = parts_for(name)
    params = start_of(length_for(name), dtype)
    optimizer = TorchOptimizer(factory_of(name), lr_schedules.cosine(RATE, STEPS))
    optimizer.assign(parts)
    steps = gradients(len(params), dtype=dtype)
    for grads in steps[:7]:
        optimizer.step(params, grads.copy())

    resumed = TorchOptimizer(factory_of(name), lr_schedules.cosine(RATE, STEPS))
    resumed.assign(parts)
    resumed.state = {key: vector.copy() for key, vector in optimizer.state.items()}
    resumed.steps = optimizer.steps
    others = [(resumed, params.copy()), (copy.deepcopy(optimizer), params.copy())]
    for grads in steps[7:]:
        optimizer.step(params, grads.copy())
        for other, moved in others:
            other.step(moved, grads.copy())
    for other, moved in others:
        np.testing.assert_array_equal(moved, params)
        for key in optimizer.slots:
            np.testing.assert_array_equal(other.state[key], optimizer.state[key])


@pytest.mark.parametrize("until", [1, 3, 5])
@pytest.mark.parametrize("name", TAKEN)
def test_a_resumed_training_knows_which_parameters_had_a_gradient(name, until):
    """One has none in some steps, and another zeros, which is not the same."""
    factory = factory_of(name)
    parts = [Part("a", 4, (2, 2), True), Part("b", 4, (2, 2)), Part("c", 4, (2, 2))]
    steps = gradients(12, 8)
    for i, grads in enumerate(steps):
        grads[:4] = grads[:4] if i in (2, 5) else NO_GRADIENT
        grads[4:8] *= i > 3
    ours = [TorchOptimizer(factory) for _ in range(2)]
    for each in ours:
        each.assign(parts)
    params, weights = start_of(12), []
    theirs = [
        torch.nn.Parameter(torch.tensor(params[at : at + 4].reshape(2, 2))) for at in (0, 4, 8)
    ]
    plain = factory(theirs)
    moving = ours[0]
    for i, grads in enumerate(steps):
        if i == until:
            moving = ours[1]
            moving.state = {key: value.copy() for key, value in ours[0].state.items()}
            moving.steps = i
        for at, weight in zip((0, 4, 8), theirs):
            weight.grad = torch.tensor(grads[at : at + 4].reshape(2, 2))
        if i not in (2, 5):
            theirs[0].grad = None
        moving.step(params, grads.copy())
        plain.step()
        weights = np.concatenate([weight.detach().numpy().ravel() for weight in theirs])
        np.testing.assert_allclose(params, weights, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["SGD", "NAdam", "ASGD"])
def test_state_that_a_strategy_changes_in_place_is_what_torch_goes_on_with(name):
    """LocalSGD averages it over the ranks."""
    parts, results = parts_for(name), []
    for changed in (False, True):
        params = start_of(length_for(name))
        optimizer = TorchOptimizer(factory_of(name))
        optimizer.assign(parts)
        for grads in gradients(len(params), 3):
            optimizer.step(params, grads.copy())
            if changed:
                for vector in optimizer.state.values():
                    vector *= 0.5
        results.append(params)
    assert np.abs(results[0] - results[1]).max() > 1e-3


def test_optimizers_that_no_strategy_can_use_are_refused():
    with pytest.raises(TypeError, match="LBFGS calls a closure"):
        TorchOptimizer(lambda params: torch.optim.LBFGS(params))
    with pytest.raises(TypeError, match="does not support dense gradients"):
        TorchOptimizer(lambda params: torch.optim.SparseAdam(params))
    assert set(KINDS) - set(TAKEN) == NOT_OF_A_GRADIENT


@pytest.mark.parametrize("name", TAKEN)
def test_what_looks_at_more_than_an_element_is_known(name):
    reason = why_not_elementwise(TorchOptimizer(factory_of(name)))
    assert (reason is not None) == (name in NOT_ELEMENTWISE), reason


class _OfMatrices(torch.optim.SGD):
    """Scales the rate by the norm of a matrix, and leaves vectors to SGD."""

    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.dim() == 2:
                    parameter.grad = parameter.grad / parameter.grad.norm()
        super().step(closure)


class _Counts(torch.optim.SGD):
    def step(self, closure=None):
        super().step(closure)
        for group in self.param_groups:
            group["seen"] = group.get("seen", 0) + 1


class _KeepsMore(torch.optim.SGD):
    def step(self, closure=None):
        super().step(closure)
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter]["window"] = torch.zeros(3 * parameter.numel())


class _Spoils(torch.optim.SGD):
    def step(self, closure=None):
        super().step(closure)
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad.zero_()


def test_optimizers_of_ones_own():
    reason = why_not_elementwise(TorchOptimizer(lambda params: _OfMatrices(params, 0.1)))
    assert "depends on the other elements" in reason
    with pytest.raises(TypeError, match="numbers for all parameters together"):
        TorchOptimizer(lambda params: _Counts(params, 0.1))
    with pytest.raises(TypeError, match="'window' for each parameter, a tensor of 6 float32"):
        TorchOptimizer(lambda params: _KeepsMore(params, 0.1))
    assert not TorchOptimizer(lambda params: _Spoils(params, 0.1)).keeps_gradient
    assert TorchOptimizer(lambda params: torch.optim.SGD(params, 0.1)).keeps_gradient


STRANGER = torch.nn.Parameter(torch.zeros(2))


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (torch.optim.SGD([STRANGER], 0.1), "factory is SGD"),
        (lambda params: None, "returned NoneType"),
        (lambda params: torch.optim.SGD([STRANGER], 0.1), "other parameters than it was given"),
        (
            lambda params: torch.optim.SGD([{"params": params}, {"params": [STRANGER]}], 0.1),
            "more than one group",
        ),
        (lambda params: torch.optim.SGD(params, -1), "Invalid learning rate"),
    ],
)
def test_factories_that_make_something_else_are_refused(factory, message):
    with pytest.raises(TypeError, match=message):
        TorchOptimizer(factory)


def test_settings_that_the_optimizer_lacks_are_refused():
    with pytest.raises(ValueError, match="no setting 'beta'"):
        TorchOptimizer(lambda params: torch.optim.Adam(params), groups=[("*", {"beta": 1})])


def test_the_rate_is_the_factorys_unless_one_is_given():
    assert TorchOptimizer(lambda params: torch.optim.Adam(params, lr=0.25)).lr == 0.25
    assert TorchOptimizer(lambda params: torch.optim.Adam(params, lr=0.25), 0.5).lr == 0.5


def test_a_moment_of_one_group_alone_is_kept():
    """The others have none, as torch has it."""
    groups = [("head.*", {"momentum": 0.9})]
    optimizer = TorchOptimizer(lambda params: torch.optim.SGD(params, 0.1), groups=groups)
    optimizer.assign(parts_for("SGD"))
    params = start_of(length_for("SGD"))
    for grads in gradients(len(params), 3):
        optimizer.step(params, grads)
    assert optimizer.slots == ("momentum_buffer", "step")
    moment = optimizer.state["momentum_buffer"]
    assert moment[-10:].all()
    assert not moment[:-10].any()


def test_an_average_of_the_weights_is_kept_beside_torchs_state():
    optimizer = EMA(TorchOptimizer(lambda params: torch.optim.Adam(params, lr=0.1)), 0.5)
    params = start_of(4)
    expected = None
    for grads in gradients(4, 5):
        optimizer.step(params, grads)
        expected = params.copy() if expected is None else 0.5 * expected + 0.5 * params
    np.testing.assert_allclose(optimizer.state["average"], expected, rtol=1e-14)
    assert set(optimizer.state) == {"step", "exp_avg", "exp_avg_sq", "average"}
