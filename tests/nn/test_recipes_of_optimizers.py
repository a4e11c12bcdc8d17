"""Clipping, groups, AdamW and averages equal torch's, and slices move as the whole."""

import copy
import itertools
import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mpi4py import MPI

from nn import EMA, SGD, AdaGrad, Adam, AdamW, lr_schedules
from nn.optim import Part, why_not_elementwise

pytestmark = pytest.mark.workers(1)

PAIRS = {
    "sgd": (SGD, torch.optim.SGD, {}),
    "momentum": (SGD, torch.optim.SGD, {"momentum": 0.9, "weight_decay": 0.1}),
    "nesterov": (SGD, torch.optim.SGD, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    "adam": (Adam, torch.optim.Adam, {"weight_decay": 0.1}),
    "adamw": (AdamW, torch.optim.AdamW, {"weight_decay": 0.1}),
    "adagrad": (AdaGrad, torch.optim.Adagrad, {"eps": 1e-10, "weight_decay": 0.1}),
}
SHAPES = {"0.weight": (5, 3), "0.bias": (5,), "head.weight": (2, 5), "head.bias": (2,)}
PARTS = [Part(name, math.prod(shape), shape) for name, shape in SHAPES.items()]
LENGTH = sum(part.size for part in PARTS)
GROUPS = [
    ("*.bias", {"weight_decay": 0}),
    (lambda name: name.startswith("head."), {"lr": lr_schedules.cosine(0.02, 20)}),
]
CLIPPING = {
    "none": {},
    "norm": {"clip_norm": 2.0},
    "inf": {"clip_norm": 0.7, "norm_type": math.inf},
    "value": {"clip_value": 0.5},
    "loose": {"clip_norm": 1e6},
}


def gradient(rng):
    return rng.standard_normal(LENGTH) * np.geomspace(1e-3, 3, LENGTH)


def clip(weights, clip_norm=None, norm_type=2.0, clip_value=None):
    if clip_norm is not None:
        torch.nn.utils.clip_grad_norm_(weights, clip_norm, norm_type)
    if clip_value is not None:
        torch.nn.utils.clip_grad_value_(weights, clip_value)


@pytest.mark.parametrize("clipping", CLIPPING)
@pytest.mark.parametrize("kind", PAIRS)
def test_equal_to_torch_with_groups_and_clipping(kind, clipping):
    ours, theirs, options = PAIRS[kind]
    rng = np.random.default_rng(0)
    start = rng.standard_normal(LENGTH)
    params = start.copy()
    optimizer = ours(0.05, groups=GROUPS, **options, **CLIPPING[clipping])
    optimizer.assign(PARTS, list(SHAPES))
    pieces = np.split(start.copy(), np.cumsum([p.size for p in PARTS])[:-1])
    weights = [torch.nn.Parameter(torch.tensor(a.reshape(p.shape))) for a, p in zip(pieces, PARTS)]
    reference = theirs(
        [
            {"params": weights[:1]},
            {"params": weights[1::2], "weight_decay": 0},
            {"params": weights[2:3], "lr": 0.02},
        ],
        0.05,
        **options,
    )
    for step in range(20):
        reference.param_groups[2]["lr"] = lr_schedules.cosine(0.02, 20)(step)
        g = gradient(rng)
        given_gradient = g.copy()
        optimizer.step(params, given_gradient)
        if clipping in ("none", "loose") and optimizer.keeps_gradient:
            np.testing.assert_array_equal(given_gradient, g)
        at = 0
        for weight in weights:
            weight.grad = torch.tensor(g[at : at + weight.numel()].reshape(weight.shape))
            at += weight.numel()
        clip(weights, **CLIPPING[clipping])
        reference.step()
    twin = np.concatenate([w.detach().numpy().ravel() for w in weights])
    np.testing.assert_allclose(params, twin, rtol=1e-10, atol=1e-12)
    assert np.abs(params - start).max() > 0.01


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("order", [2.0, math.inf])
def test_a_norm_that_is_not_finite_does_what_it_does_in_torch(bad, order):
    params, g = np.ones(3), np.array([1.0, bad, -2.0])
    weight = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
    weight.grad = torch.tensor(g)
    SGD(0.5, clip_norm=1.0, norm_type=order).step(params, g)
    clip([weight], 1.0, order)
    np.testing.assert_array_equal(g, weight.grad.numpy())


def test_the_norm_is_summed_in_float64():
    g = np.full(100_000, 1e-3, "float32")
    g[0] = 1e4  # in float32 all others would be lost
    optimizer, twin = SGD(1.0, clip_norm=1.0), SGD(1.0, clip_norm=1.0)
    ours, theirs = np.zeros_like(g), np.zeros_like(g)
    optimizer.step(ours, g.copy())
    twin.step(theirs, g.copy(), float(np.linalg.norm(g.astype("float64"))))
    np.testing.assert_array_equal(ours, theirs)
    large = np.full(4, 1e30, "float32")
    SGD(1.0, clip_norm=2.0).step(np.zeros(4, "float32"), large)
    np.testing.assert_allclose(large, 1.0)  # its square is infinite in float32
    tiny = np.full(4, 1e-30, "float32")
    SGD(1.0, clip_norm=1e-31).step(np.zeros(4, "float32"), tiny)
    assert tiny[0] < 1e-30  # its square is 0 in float32


@settings(max_examples=30, deadline=None)
@given(
    kind=st.sampled_from(sorted(PAIRS)),
    clipping=st.sampled_from(sorted(CLIPPING)),
    of=st.lists(st.sampled_from(["*.bias", "*.weight", "head.*", "0.*", "*"]), max_size=3),
    cuts=st.lists(st.integers(0, LENGTH), max_size=4),
    mean=st.booleans(),
)
def test_slices_move_as_the_whole_to_the_bit(kind, clipping, of, cuts, mean):
    ours, _, options = PAIRS[kind]
    groups = [(pattern, {"weight_decay": 0.01 * i, "lr": 0.1}) for i, pattern in enumerate(of)]

    def make():
        optimizer = ours(0.05, groups=groups, **options, **CLIPPING[clipping])
        return EMA(optimizer, 0.5) if mean else optimizer

    rng = np.random.default_rng(2)
    edges = [0, *sorted(cuts), LENGTH]
    slices = [slice(lo, hi) for lo, hi in itertools.pairwise(edges)]
    names = np.repeat([p.name for p in PARTS], [p.size for p in PARTS])
    whole, movers = make(), [make() for _ in slices]
    whole.assign(PARTS)
    for mover, cut in zip(movers, slices):
        mover.assign([Part(str(name), 1, None) for name in names[cut]])
    a = rng.standard_normal(LENGTH)
    b = a.copy()
    for _ in range(3):
        g = gradient(rng)
        norm = float(np.linalg.norm(g, whole.norm_type))
        whole.step(a, g.copy(), norm)
        for mover, cut in zip(movers, slices):
            mover.step(b[cut], g[cut].copy(), norm)
    np.testing.assert_array_equal(a, b)
    for name, vector in whole.state.items():
        np.testing.assert_array_equal(vector, np.concatenate([m.state[name] for m in movers]))


def test_a_group_may_have_momentum_where_the_others_have_none():
    a = SGD(0.1, momentum=0.9)
    mixed = SGD(0.1, groups=[("b", {"momentum": 0.9}), ("c", {"lr": 1.0})])
    mixed.assign([Part("a", 2, (2,)), Part("b", 2, (2,)), Part("c", 1, (1,))], ["a", "b", "c"])
    assert mixed.slots == ("velocity",)
    params = np.zeros(5)
    one = np.zeros(2)
    for _ in range(3):
        mixed.step(params, np.ones(5))
        a.step(one, np.ones(2))
    np.testing.assert_allclose(params, [-0.3, -0.3, *one, -3.0])
    np.testing.assert_array_equal(mixed.state["velocity"][[0, 1, 4]], 0)


def test_a_rate_that_is_changed_holds_for_groups_without_one():
    optimizer = SGD(0.1, groups=[("a", {"momentum": 0.5}), ("c", {"lr": 1.0})])
    optimizer.assign([Part(name, 1, (1,)) for name in "abc"])
    optimizer.lr = 2.0
    params = np.zeros(3)
    optimizer.step(params, np.ones(3))
    np.testing.assert_array_equal(params, [-2, -2, -1])


class Written(Adam):
    """An optimizer as users wrote it before there were groups."""

    def __init__(self, lr, decay):
        super().__init__(lr)
        self.decay = decay

    def apply(self, params, grads, lr):
        params *= 1 - lr * self.decay
        super().apply(params, grads, lr)


class Grouped(SGD):
    """An optimizer of a user's that passes options on."""

    def __init__(self, lr, decay=0.0, **options):
        super().__init__(lr, **options)
        self.decay = decay

    def apply(self, params, grads, lr):
        params *= 1 - lr * self.decay
        super().apply(params, grads, lr)


def test_optimizers_that_users_wrote():
    ours, theirs, rng = np.ones(5), np.ones(5), np.random.default_rng(0)
    written, reference = Written(1e-2, 0.1), AdamW(1e-2, weight_decay=0.1)
    for _ in range(3):
        g = rng.standard_normal(5)
        written.step(ours, g.copy())
        reference.step(theirs, g.copy())
    np.testing.assert_array_equal(ours, theirs)
    assert not written.keeps_gradient
    assert reference.keeps_gradient
    grouped = Grouped(0.1, decay=0.5, groups=[("b", {"decay": 0})], clip_norm=1.0)
    grouped.assign([Part("a", 1, (1,)), Part("b", 1, (1,))], ["a", "b"])
    params = np.ones(2)
    grouped.step(params, np.zeros(2))
    np.testing.assert_allclose(params, [0.95, 1.0])


class ClipsItself(SGD):
    def apply(self, params, grads, lr):
        grads *= min(1, 1 / float(np.linalg.norm(grads)))
        super().apply(params, grads, lr)


class Masked(SGD):
    def __init__(self, lr, length):
        super().__init__(lr)
        self.mask = np.ones(length)

    def apply(self, params, grads, lr):
        super().apply(params, grads * self.mask, lr)


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        *((lambda p=p: p[0](0.1, **p[2]), None) for p in PAIRS.values()),
        (lambda: SGD(lr_schedules.warmup(0.1, 5), clip_norm=1e-3), None),
        (lambda: EMA(AdamW(0.1, groups=[("*", {"lr": 1})])), None),
        (lambda: Written(0.1, 0.1), None),
        (lambda: ClipsItself(0.1), "depends on the other"),
        (lambda: EMA(ClipsItself(0.1)), "depends on the other"),
        (lambda: Masked(0.1, 50), "fails on a part"),
        (lambda: Masked(0.1, 8), "fails on a part"),
    ],
)
def test_optimizers_that_are_not_elementwise_are_found(build, reason):
    optimizer = build()
    before = pickle.dumps(optimizer) if reason else repr(optimizer.state)
    said = why_not_elementwise(optimizer)
    assert (said is None) if reason is None else (reason in said)
    assert before == (pickle.dumps(optimizer) if reason else repr(optimizer.state))
    assert optimizer.steps == 0


@pytest.mark.parametrize(
    ("groups", "error", "words"),
    [
        ([("*.bias", {"momentums": 0})], ValueError, "no setting 'momentums'"),
        ([("*.bias", {"clip_norm": 1})], ValueError, "the whole gradient"),
        ([("*.bias", {"groups": []})], ValueError, "the whole gradient"),
        ([("*.bias",)], TypeError, "expected a pattern"),
        ([(3, {})], TypeError, "expected a pattern"),
        ([("nothing.*", {"lr": 0})], ValueError, "no parameter of the model"),
        ([("*", {"lr": 0}), ("*.bias", {"lr": 1})], ValueError, "first that matches wins"),
        ([("*.bias", {"momentum": 2})], ValueError, r"group '\*.bias': momentum"),
    ],
)
def test_groups_that_cannot_be_are_refused(groups, error, words):
    with pytest.raises(error, match=words):
        SGD(0.1, groups=groups).assign(PARTS, list(SHAPES))


def test_vectors_that_do_not_fit_the_parts_are_refused():
    optimizer = SGD(0.1, groups=GROUPS)
    with pytest.raises(ValueError, match="call assign"):
        optimizer.step(np.zeros(3), np.zeros(3))
    optimizer.assign([Part("0.bias", 4, (4,))])
    with pytest.raises(ValueError, match="expected 4"):
        optimizer.step(np.zeros(3), np.zeros(3))
    optimizer.assign([Part("", 3, (3,))])
    with pytest.raises(ValueError, match="names"):
        optimizer.step(np.zeros(3), np.zeros(3))


@pytest.mark.parametrize(
    "options",
    [
        {"clip_norm": -1.0},
        {"clip_norm": math.inf},
        {"clip_value": -1.0},
        {"clip_norm": 1.0, "clip_value": 1.0},
        {"clip_norm": 1.0, "norm_type": 1},
    ],
)
@pytest.mark.parametrize("kind", [SGD, Adam, AdamW, AdaGrad])
def test_bad_clipping_is_refused(kind, options):
    with pytest.raises(ValueError, match="expected"):
        kind(0.1, **options)


def test_an_average_equals_torchs():
    weight = torch.nn.Linear(3, 1, bias=False, dtype=torch.float64)
    params = weight.weight.detach().numpy().ravel().copy()
    theirs = torch.optim.swa_utils.AveragedModel(
        weight, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.8)
    )
    optimizer, reference = (
        EMA(SGD(0.1, momentum=0.9), 0.8),
        torch.optim.SGD(weight.parameters(), 0.1, momentum=0.9),
    )
    rng = np.random.default_rng(0)
    for _ in range(20):
        g = rng.standard_normal(3)
        optimizer.step(params, g.copy())
        weight.weight.grad = torch.tensor(g[None])
        reference.step()
        theirs.update_parameters(weight)
    average = theirs.module.weight.detach().numpy().ravel()
    np.testing.assert_allclose(optimizer.state["average"], average, rtol=1e-10)
    np.testing.assert_allclose(params, weight.weight.detach().numpy().ravel(), rtol=1e-10)
    assert np.abs(average - params).max() > 0.01


def sent(optimizer):
    """A copy that has gone through a message, as a pickle."""
    return MPI.COMM_SELF.sendrecv(optimizer, 0, source=0)


@pytest.mark.parametrize("through", [copy.deepcopy, sent])
def test_copies_go_on_to_the_bit(through):
    optimizer = EMA(SGD(0.1, momentum=0.9, clip_norm=1.0, groups=[("b", {"lr": 0.2})]), 0.9)
    optimizer.assign([Part("a", 2, (2,)), Part("b", 2, (2,))])
    a = np.ones(4)
    optimizer.step(a, np.arange(4.0))
    twin, b = through(optimizer), a.copy()
    optimizer.step(a, np.arange(4.0))
    twin.step(b, np.arange(4.0))
    np.testing.assert_array_equal(a, b)
