"""The nets that can be raced, each for pictures of any data set that it takes."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import nn

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Net:
    """A net by name.

    Attributes:
        title: what it is, in a few words.
        least: the fewest pixels of a side of its pictures.
        build: (shape of a picture, number of classes, dtype) -> the net, with the same weights each
            time.
        rate: a learning rate to begin with.
    """

    title: str
    least: int
    build: Callable[[Shape, int, str], nn.Model]
    rate: float


def _mlp(shape: Shape, classes: int, dtype: str) -> nn.Model:
    return nn.mlp([math.prod(shape), 256, 128, classes], dtype=dtype)


def _resnet(shape: Shape, classes: int, dtype: str) -> nn.Model:
    from nn.torch import TorchModel, build  # torch takes seconds to import

    net = build("resnet20", classes=classes, input_shape=shape)
    return TorchModel(net, dtype=dtype, seed=0, input_shape=shape)


DTYPES = ("float32", "float64")

NETS = {
    "mlp": Net("fully connected, 256 and 128 hidden neurons", 1, _mlp, 0.03),
    "cnn": Net("two convolutions, 32 and 64 channels", 10, lambda s, c, d: nn.cnn(c, s, d), 0.03),
    "lenet": Net("LeNet-5", 12, lambda s, c, d: nn.lenet(c, s, d), 0.03),
    "resnet": Net("ResNet-20, in torch (slow on a CPU)", 8, _resnet, 0.05),
}


def why_not(net: str, shape: Shape) -> str:
    """Say why a net does not take pictures of this shape; empty if it does."""
    least = NETS[net].least
    if min(shape[1:]) >= least:
        return ""
    return f"{net} needs pictures of at least {least}x{least}, and these are {shape[1]}x{shape[2]}"
