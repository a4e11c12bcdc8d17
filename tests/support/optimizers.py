"""Optimizers to prove a strategy with, by name, each a new one: every kind that nn has."""

import math
from collections.abc import Callable
from functools import partial

import torch

from nn import EMA, SGD, AdaGrad, Adam, AdamW, lr_schedules
from nn.torch import TorchOptimizer


def momentum():
    """Make the usual optimizer: plain SGD would not show a state that is lost."""
    return SGD(0.1, momentum=0.9)


def optimizers(rate: float) -> dict[str, Callable]:
    """Make one of each kind; `rate` is SGD's learning rate, the others take a tenth of it."""
    return {
        "sgd": partial(SGD, rate),
        "momentum": partial(SGD, rate, momentum=0.9),
        "nesterov": lambda: SGD(lr_schedules.cosine(rate, 10), momentum=0.9, nesterov=True),
        "decay": partial(SGD, rate, momentum=0.9, weight_decay=1e-3),
        "adam": partial(Adam, rate / 10),
        "adagrad": partial(AdaGrad, rate / 10),
    }


OPTIMIZERS = optimizers(0.1)

RECIPES: dict[str, Callable] = {
    "adamw": partial(AdamW, 0.01, weight_decay=0.1),
    "clip": partial(SGD, 0.1, momentum=0.9, clip_norm=0.05),
    "clip_inf": partial(SGD, 0.1, momentum=0.9, clip_norm=0.01, norm_type=math.inf),
    "clip_value": partial(SGD, 0.1, momentum=0.9, clip_value=0.01),
    "groups": lambda: SGD(
        lr_schedules.warmup(0.1, 2), weight_decay=0.1, groups=[("*.bias", {"weight_decay": 0})]
    ),
    "torch": lambda: TorchOptimizer(
        lambda params: torch.optim.NAdam(params, weight_decay=0.1),
        lr_schedules.one_cycle(0.02, 10),
        clip_norm=0.05,
        groups=[("*.bias", {"weight_decay": 0})],
    ),
    "average": lambda: EMA(SGD(0.1, momentum=0.9), 0.5),
}
"""Optimizers as recipes have them: clipping, groups, decoupled decay, torch's own, an average."""
