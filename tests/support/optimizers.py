"""Optimizers to prove a strategy with, by name, each a new one: every kind that nn has."""

from collections.abc import Callable
from functools import partial

from nn import SGD, AdaGrad, Adam, lr_schedules


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
