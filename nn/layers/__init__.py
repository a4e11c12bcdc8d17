"""Layers, from which models are built. Each computes its output and the gradient of its input."""

from nn.layers.activations import Flatten, ReLU, Sigmoid, Tanh, check_in_place
from nn.layers.base import Layer, Shape
from nn.layers.convolution import Conv2d, MaxPool2d
from nn.layers.divisible import Divisible
from nn.layers.embedding import EmbeddingBag
from nn.layers.frozen import Frozen
from nn.layers.linear import Linear
from nn.layers.residual import Residual

__all__ = [
    "Conv2d",
    "Divisible",
    "EmbeddingBag",
    "Flatten",
    "Frozen",
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
