"""Layers: what a model is made of. Each computes its output and the gradient of its input."""

from nn.layers.base import (
    Conv2d,
    Flatten,
    Layer,
    Linear,
    MaxPool2d,
    ReLU,
    Shape,
    Sigmoid,
    Tanh,
    check_in_place,
)
from nn.layers.embedding import EmbeddingBag
from nn.layers.residual import Residual

__all__ = [
    "Conv2d",
    "EmbeddingBag",
    "Flatten",
    "Layer",
    "Linear",
    "MaxPool2d",
    "ReLU",
    "Residual",
    "Shape",
    "Sigmoid",
    "Tanh",
    "check_in_place",
]
