"""Plain training with a whole recipe is the loop that a user of torch would write, to 1e-10."""

import numpy as np
import pytest
import torch
from torch import nn as tnn
from torch.optim import lr_scheduler

from nn import SGD, AdaGrad, Adam, AdamW, Batch
from nn.loss import BinaryCrossEntropy, CrossEntropy, MeanSquaredError
from nn.lr_schedules import cosine, linear, one_cycle, warmup
from nn.torch import TorchModel, TorchOptimizer
from strategies import Sequential

pytestmark = pytest.mark.workers(1)

STEPS, INPUTS, OUTPUTS = 20, 6, 4
WEIGHTS = [1.0, 2.0, 0.5, 1.5]
NO_DECAY = [("*.bias", {"weight_decay": 0.0}), ("2.*", {"weight_decay": 0.0})]

LOSSES = {
    "tokens": (
        lambda: CrossEntropy(0.1, WEIGHTS, ignore_index=-100),
        lambda: tnn.CrossEntropyLoss(torch.tensor(WEIGHTS).double(), label_smoothing=0.1),
    ),
    "squares": (MeanSquaredError, tnn.MSELoss),
    "binary": (BinaryCrossEntropy, tnn.BCEWithLogitsLoss),
    "torchs": (tnn.SmoothL1Loss, tnn.SmoothL1Loss),
}
CLIPPING = {
    "by norm": ({"clip_norm": 0.3}, lambda w: tnn.utils.clip_grad_norm_(w, 0.3)),
    "by value": ({"clip_value": 0.02}, lambda w: tnn.utils.clip_grad_value_(w, 0.02)),
}
RECIPES = {
    "AdamW one_cycle": (
        lambda more: AdamW(one_cycle(0.05, STEPS), weight_decay=0.1, **more),
        lambda groups: torch.optim.AdamW(groups, 0.05, weight_decay=0.1),
        lambda o: lr_scheduler.OneCycleLR(o, 0.05, STEPS, cycle_momentum=False),
    ),
    "SGD warmup cosine": (
        lambda more: SGD(warmup(cosine(0.1, 15), 5), 0.9, weight_decay=0.1, nesterov=True, **more),
        lambda groups: torch.optim.SGD(groups, 0.1, 0.9, weight_decay=0.1, nesterov=True),
        lambda o: lr_scheduler.SequentialLR(
            o,
            [lr_scheduler.LinearLR(o, 1 / 6, 1, 5), lr_scheduler.CosineAnnealingLR(o, 15)],
            [5],
        ),
    ),
    "Adam linear": (
        lambda more: Adam(linear(0.05, STEPS), weight_decay=0.1, **more),
        lambda groups: torch.optim.Adam(groups, 0.05, weight_decay=0.1),
        lambda o: lr_scheduler.LinearLR(o, 1, 0, STEPS),
    ),
    "AdaGrad": (
        lambda more: AdaGrad(0.1, eps=1e-10, weight_decay=0.1, **more),
        lambda groups: torch.optim.Adagrad(groups, 0.1, weight_decay=0.1),
        lambda o: lr_scheduler.ConstantLR(o, 1.0),
    ),
    "torch's NAdam one_cycle": (
        lambda more: TorchOptimizer(
            lambda params: torch.optim.NAdam(params, 0.05, weight_decay=0.1),
            lr=one_cycle(0.05, STEPS),
            **more,
        ),
        lambda groups: torch.optim.NAdam(groups, 0.05, weight_decay=0.1),
        lambda o: lr_scheduler.OneCycleLR(o, 0.05, STEPS, cycle_momentum=False),
    ),
}


def net():
    """Layers of which one is frozen and two have the same weights."""
    torch.manual_seed(0)
    net = tnn.Sequential(
        tnn.Linear(INPUTS, 5),
        tnn.Tanh(),
        tnn.LayerNorm(5),
        tnn.Linear(5, 5),
        tnn.Tanh(),
        tnn.Linear(5, 5),
        tnn.Tanh(),
        tnn.Linear(5, OUTPUTS),
    ).double()
    net[5].weight = net[3].weight
    net[0].weight.requires_grad_(False)
    return net


def batches(loss):
    """Batches of changing size; of labels some are padding."""
    rng = np.random.default_rng(0)
    for rows in rng.integers(1, 9, STEPS):
        if loss == "tokens":
            y = rng.integers(0, OUTPUTS, rows)
            y[1:][rng.random(rows - 1) < 0.3] = -100
        else:
            y = rng.random((rows, OUTPUTS))
        yield Batch(rng.standard_normal((rows, INPUTS)), y)


def loop(loss, clip, optimizer, scheduler):
    """The weights after a plain loop of torch, those that are trained, in order."""
    module, criterion = net(), LOSSES[loss][1]()
    trained = {name: w for name, w in module.named_parameters() if w.requires_grad}
    bare = [w for name, w in trained.items() if name.endswith(".bias") or name.startswith("2.")]
    rest = [w for w in trained.values() if not any(w is each for each in bare)]
    moved = optimizer([{"params": bare, "weight_decay": 0.0}, {"params": rest}])
    rate = scheduler(moved)
    for batch in batches(loss):
        moved.zero_grad()
        criterion(module(torch.tensor(batch.x)), torch.tensor(batch.y)).backward()
        clip(trained.values())
        moved.step()
        rate.step()
    return np.concatenate([weight.detach().numpy().ravel() for weight in trained.values()])


@pytest.mark.parametrize("clipping", CLIPPING)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.filterwarnings("ignore:Detected call of .lr_scheduler.step")
def test_it_is_the_loop_of_torch(recipe, loss, clipping):
    ours, theirs, scheduler = RECIPES[recipe]
    options, clip = CLIPPING[clipping]
    model = TorchModel(net(), seed=None, input_shape=(INPUTS,), loss=LOSSES[loss][0]())
    start, strategy = model.params.copy(), Sequential(model, ours({**options, "groups": NO_DECAY}))
    for batch in batches(loss):
        strategy.step(batch)
    expected = loop(loss, clip, theirs, scheduler)
    np.testing.assert_allclose(strategy.weights(), expected, rtol=0, atol=1e-10)
    assert np.abs(expected - start).max() > 0.05
