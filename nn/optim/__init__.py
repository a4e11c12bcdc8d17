"""Optimizers on flat vectors; one arithmetic serves numpy arrays and torch tensors."""

from nn.optim.adagrad import AdaGrad
from nn.optim.adam import Adam, AdamW
from nn.optim.base import Optimizer, Options
from nn.optim.elementwise import why_not_elementwise
from nn.optim.ema import EMA
from nn.optim.groups import Part
from nn.optim.sgd import SGD
from nn.optim.vector import Schedule, Vector, multiply, zeros_like

__all__ = [
    "EMA",
    "SGD",
    "AdaGrad",
    "Adam",
    "AdamW",
    "Optimizer",
    "Options",
    "Part",
    "Schedule",
    "Vector",
    "multiply",
    "why_not_elementwise",
    "zeros_like",
]
