"""Optimizers to prove a strategy with, by name, each a new one: every kind that nn has."""

from nn import SGD, AdaGrad, Adam, lr_schedules


def momentum():
    """The usual one, where one is enough: plain SGD would not show a state that is lost."""
    return SGD(0.1, momentum=0.9)


OPTIMIZERS = {
    "sgd": lambda: SGD(0.1),
    "momentum": momentum,
    "nesterov": lambda: SGD(lr_schedules.cosine(0.1, 10), momentum=0.9, nesterov=True),
    "decay": lambda: SGD(0.1, momentum=0.9, weight_decay=1e-3),
    "adam": lambda: Adam(1e-2),
    "adagrad": lambda: AdaGrad(1e-2),
}
