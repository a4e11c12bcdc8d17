"""Optimizers and schedules equal torch's."""

import numpy as np
import pytest
import torch

from nn import SGD, AdaGrad, Adam, lr_schedules

pytestmark = pytest.mark.workers(1)

PAIRS = {
    "sgd": (SGD, torch.optim.SGD, {}),
    "decay": (SGD, torch.optim.SGD, {"weight_decay": 0.1}),
    "momentum": (SGD, torch.optim.SGD, {"momentum": 0.9, "weight_decay": 0.1}),
    "nesterov": (SGD, torch.optim.SGD, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    "adam": (Adam, torch.optim.Adam, {"betas": (0.8, 0.99), "eps": 1e-6, "weight_decay": 0.1}),
    "adagrad": (AdaGrad, torch.optim.Adagrad, {"eps": 1e-6, "weight_decay": 0.1}),
}


@pytest.mark.parametrize("kind", PAIRS)
@pytest.mark.parametrize("vector", [np.array, torch.from_numpy], ids=["numpy", "torch"])
def test_equal_to_torch(kind, vector):
    ours, theirs, options = PAIRS[kind]
    rng = np.random.default_rng(0)
    start = rng.standard_normal(20)
    params = vector(start.copy())
    optimizer = ours(0.05, **options)
    twin = torch.nn.Parameter(torch.from_numpy(start.copy()))
    reference = theirs([twin], 0.05, **options)
    for _ in range(30):
        gradient = rng.standard_normal(20)
        optimizer.step(params, vector(gradient.copy()))
        twin.grad = torch.from_numpy(gradient.copy())
        reference.step()
    np.testing.assert_allclose(np.asarray(params), twin.detach().numpy(), rtol=1e-12)
    assert np.abs(np.asarray(params) - start).max() > 0.01


@pytest.mark.parametrize("kind", PAIRS)
def test_slices_move_as_the_whole_to_the_bit(kind):
    ours, _, options = PAIRS[kind]
    rng = np.random.default_rng(1)
    whole = rng.standard_normal(103).astype("float32")
    parts, cuts = whole.copy(), [slice(0, 48), slice(48, 48), slice(48, 103)]
    optimizer, optimizers = ours(0.05, **options), [ours(0.05, **options) for _ in cuts]
    for _ in range(5):
        gradient = rng.standard_normal(103).astype("float32")
        for cut, each in zip(cuts, optimizers):
            each.step(parts[cut], gradient[cut].copy())
        optimizer.step(whole, gradient.copy())
    np.testing.assert_array_equal(parts, whole)


def test_a_schedule_is_called_with_the_number_of_steps_taken():
    seen = []
    optimizer = SGD(lambda step: seen.append(step) or 0.5)
    params = np.zeros(1)
    for _ in range(3):
        optimizer.step(params, np.ones(1))
    assert seen == [0, 1, 2]
    assert params[0] == -1.5


@pytest.mark.parametrize(
    ("schedule", "reference"),
    [
        (lr_schedules.constant(0.4), lambda o: torch.optim.lr_scheduler.ConstantLR(o, 1.0)),
        (
            lr_schedules.milestones(0.4, [3, 7], 0.5),
            lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [3, 7], 0.5),
        ),
        (
            lr_schedules.cosine(0.4, 19, 0.01),
            lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 19, 0.01),
        ),
        (
            lr_schedules.warm_restarts(0.4, 4, 2, 0.01),
            lambda o: torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(o, 4, 2, 0.01),
        ),
        (
            lr_schedules.linear(0.4, 13, 0.1),
            lambda o: torch.optim.lr_scheduler.LinearLR(o, 1.0, 0.25, 13),
        ),
        (
            lr_schedules.warmup(lr_schedules.cosine(0.4, 13, 0.01), 6),
            lambda o: torch.optim.lr_scheduler.SequentialLR(
                o,
                [
                    torch.optim.lr_scheduler.LinearLR(o, 1 / 7, 1.0, 6),
                    torch.optim.lr_scheduler.CosineAnnealingLR(o, 13, 0.01),
                ],
                [6],
            ),
        ),
        (
            lr_schedules.warmup(0.4, 6),
            lambda o: torch.optim.lr_scheduler.LinearLR(o, 1 / 7, 1.0, 6),
        ),
        *(
            (
                lr_schedules.one_cycle(0.4, 21, rise, anneal, 10, 100, three),
                lambda o, rise=rise, anneal=anneal, three=three: (
                    torch.optim.lr_scheduler.OneCycleLR(
                        o, 0.4, 21, None, None, rise, anneal, False, 0, 0, 10, 100, three
                    )
                ),
            )
            for rise, anneal, three in [
                (0.3, "cos", False),
                (0.3, "linear", False),
                (0.4, "cos", True),
                (0.25, "linear", True),
                (0.01, "cos", False),
            ]
        ),
    ],
)
def test_schedules_equal_torchs(schedule, reference):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 0.4)
    theirs = reference(optimizer)
    for step in range(20):
        np.testing.assert_allclose(schedule(step), optimizer.param_groups[0]["lr"], rtol=1e-12)
        optimizer.step()
        theirs.step()


def test_cosine_stays_at_its_end():
    assert lr_schedules.cosine(1.0, 10, 0.25)(25) == 0.25


@pytest.mark.parametrize(
    ("build", "error"),
    [
        (lambda: SGD(-1.0), ValueError),
        (lambda: SGD("fast"), TypeError),  # type: ignore[arg-type]
        (lambda: SGD(float("nan")), ValueError),
        (lambda: SGD(0.1, momentum=1.0), ValueError),
        (lambda: SGD(0.1, nesterov=True), ValueError),
        (lambda: SGD(0.1, weight_decay=-1), ValueError),
        (lambda: Adam(betas=(0.9, 1.0)), ValueError),
        (lambda: Adam(betas=0.9), TypeError),  # type: ignore[arg-type]
        (lambda: Adam(betas=(0.9,)), TypeError),  # type: ignore[arg-type]
        (lambda: Adam(eps=-1e-8), ValueError),
        (lambda: AdaGrad(eps=-1e-8), ValueError),
        (lambda: lr_schedules.cosine(0.1, 0), ValueError),
        (lambda: lr_schedules.milestones(0.1, [3, 2]), ValueError),
        (lambda: lr_schedules.warm_restarts(0.1, 0), ValueError),
        (lambda: lr_schedules.warm_restarts(0.1, 5, 0), ValueError),
        (lambda: lr_schedules.warmup(-0.1, 5), ValueError),
        (lambda: lr_schedules.warmup(0.1, -1), ValueError),
        (lambda: lr_schedules.linear(0.1, 0), ValueError),
        (lambda: lr_schedules.one_cycle(0.1, 0), ValueError),
        (lambda: lr_schedules.one_cycle(0.1, 5, rise=1.0), ValueError),
        (lambda: lr_schedules.one_cycle(0.1, 5, anneal="fast"), ValueError),
        (lambda: lr_schedules.one_cycle(0.1, 5, div_factor=0), ValueError),
    ],
)
def test_bad_arguments_say_what_was_expected(build, error):
    with pytest.raises(error, match="expected"):
        build()


def test_state_of_another_slice_is_refused():
    optimizer = SGD(0.1, momentum=0.9)
    optimizer.step(np.zeros(3), np.zeros(3))
    with pytest.raises(ValueError, match="one slice of one model"):
        optimizer.step(np.zeros(4), np.zeros(4))
    with pytest.raises(ValueError, match="3 parameters and 2 gradients"):
        optimizer.step(np.zeros(3), np.zeros(2))
