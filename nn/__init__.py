"""Layers, models, losses, optimizers and data. This package knows neither MPI nor pytest."""

from nn import data
from nn.batch import Batch
from nn.loss import cross_entropy
from nn.model import Model
from nn.optim import EMA, SGD, AdaGrad, Adam, AdamW
from nn.recipe import Recipe
from nn.zoo import cnn, lenet, mlp

__all__ = [
    "EMA",
    "SGD",
    "AdaGrad",
    "Adam",
    "AdamW",
    "Batch",
    "Model",
    "Recipe",
    "cnn",
    "cross_entropy",
    "data",
    "lenet",
    "mlp",
]
