"""Torch nets by name, each a `torch.nn.Sequential` of layers that a pipeline can cut.

Nets that were published for larger images are sized for 32x32 images (CIFAR-10): their first layer
keeps the resolution instead of halving it.

If a net has norm layers, `norm` chooses them:
    "group": GroupNorm (Wu and He, Group normalization, ECCV 2018). It normalises each row by
        itself, so training does not depend on how a batch is split. It has up to 8 groups; fewer
        if 8 does not divide the channels.
    "batch": BatchNorm, with which most of the nets were published. Each worker then normalises by
        its own rows.
    "none": no norm layers; convolutions have biases instead.
"""

import inspect
from collections.abc import Callable, Sequence
from itertools import pairwise
from math import gcd
from typing import Any

import torch
from torch import Tensor
from torch.nn import (
    AdaptiveAvgPool2d,
    BatchNorm1d,
    BatchNorm2d,
    Conv2d,
    Flatten,
    GroupNorm,
    Linear,
    MaxPool2d,
    Module,
    ReLU,
    Sequential,
    Sigmoid,
    Tanh,
)

from nn.arguments import as_int
from nn.layers import Shape
from nn.torch.gpt2 import gpt2
from nn.torch.gpt2_files import load_gpt2

__all__ = ["NETS", "NORMS", "build", "load_gpt2"]

NORMS = ("group", "batch", "none")
_GROUPS = 8
_ACTIVATIONS: dict[str, Callable[[], Module]] = {"relu": ReLU, "sigmoid": Sigmoid, "tanh": Tanh}


def build(name: str, norm: str | None = None, **arguments: Any) -> Sequential:
    """Build the net of this name, with torch's initial weights.

    Args:
        name: one of `NETS`.
        norm: "group", "batch" or "none"; by default the net's own choice.
        arguments: further arguments of the net's function in `NETS`.

    Raises:
        TypeError: the net does not take such an argument.
        ValueError: there is no such net or norm, or the net has no choice of norm.
    """
    if name not in NETS:
        raise ValueError(f"{name!r}: no such net; expected one of {', '.join(NETS)}")
    if norm is None:
        return NETS[name](**arguments)
    if "norm" not in inspect.signature(NETS[name]).parameters:
        raise ValueError(f"{name} has layer norm and no other choice: expected no norm=")
    return NETS[name](norm=norm, **arguments)


def mlp(
    sizes: Sequence[int] = (4, 50, 3), activation: str = "relu", norm: str = "none"
) -> Sequential:
    """A fully connected net, as `nn.mlp`; by default the one for iris.

    Args:
        sizes: inputs, hidden widths, classes.
        activation: "relu", "sigmoid" or "tanh", between the layers.
    """
    if activation not in _ACTIVATIONS:
        raise ValueError(f"activation={activation!r}: expected one of {', '.join(_ACTIVATIONS)}")
    if len(sizes) < 2:
        raise ValueError(f"sizes={list(sizes)}: expected inputs, any hidden widths, and classes")
    *widths, classes = [as_int("sizes", size, 1) for size in sizes]
    layers: list[Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [Linear(inputs, outputs), *_norm(norm, outputs, 1), _ACTIVATIONS[activation]()]
    return Sequential(*layers, Linear(widths[-1], classes))


def cnn(
    classes: int = 10,
    input_shape: Shape = (1, 28, 28),
    width: int = 32,
    norm: str = "none",
    padding: int = 0,
) -> Sequential:
    """The net of `nn.cnn`: two convolutions, 3x3, each pooled 2x2, then 128-64-classes.

    Args:
        width: channels of the first convolution.
        padding: as for `nn.cnn`.
    """
    grows = 2 * as_int("padding", padding, 0) - 2  # pixels that a convolution adds to a side
    channels, *size = _image(input_shape, max(1, 4 - 3 * grows))
    rest = [((side + grows) // 2 + grows) // 2 for side in size]
    return Sequential(
        *_conv(channels, width, norm, padding=padding),
        *(MaxPool2d(2), ReLU()),
        *_conv(width, 2 * width, norm, padding=padding),
        *(MaxPool2d(2), ReLU(), Flatten()),
        *mlp([2 * width * rest[0] * rest[1], 128, 64, classes]),
    )


def lenet(classes: int = 10, input_shape: Shape = (1, 28, 28), norm: str = "none") -> Sequential:
    """LeNet-5 as `nn.lenet` has it (LeCun, Bottou, Bengio, Haffner 1998, section II.B)."""
    channels, *size = _image(input_shape, 12)
    rest = [(side // 2 - 4) // 2 for side in size]
    return Sequential(
        *_conv(channels, 6, norm, kernel=5, padding=2),
        *(Tanh(), MaxPool2d(2)),
        *_conv(6, 16, norm, kernel=5, padding=0),
        *(Tanh(), MaxPool2d(2), Flatten()),
        *mlp([16 * rest[0] * rest[1], 120, 84, classes], "tanh"),
    )


def vgg11(
    classes: int = 10, input_shape: Shape = (3, 32, 32), width: int = 64, norm: str = "group"
) -> Sequential:
    """VGG-11 (Simonyan and Zisserman 2015, table 1, column A) with one Linear layer at its end.

    The paper ends in three Linear layers for 7x7 pixels; of 32x32 images only one pixel is left. Of
    smaller ones, such as 28x28, pooling keeps the last row and column where a size is odd.

    Args:
        width: channels of the first convolutions.
    """
    return _vgg([1, 1, 2, 2, 2], classes, input_shape, width, norm)


def vgg16(
    classes: int = 10, input_shape: Shape = (3, 32, 32), width: int = 64, norm: str = "group"
) -> Sequential:
    """VGG-16 (column D of the same table); the arguments are the same as for `vgg11`."""
    return _vgg([2, 2, 3, 3, 3], classes, input_shape, width, norm)


def _vgg(depths: list[int], classes: int, input_shape: Shape, width: int, norm: str) -> Sequential:
    layers: list[Module] = []
    channels, *size = _image(input_shape, (1 << len(depths) - 1) + 1)
    keeps_odd = min(size) < 1 << len(depths)  # or else no pixel would be left
    for depth, factor in zip(depths, (1, 2, 4, 8, 8)):
        for _ in range(depth):
            layers += [*_conv(channels, factor * width, norm), ReLU()]
            channels = factor * width
        layers.append(MaxPool2d(2, ceil_mode=keeps_odd))
    return Sequential(*layers, *_head(channels, classes))


_MOBILENET = [(2, 1), (4, 2), (4, 1), (8, 2), (8, 1), (16, 2), *5 * [(16, 1)], (32, 2), (32, 1)]
"""Channels (as a multiple of the first convolution's) and stride of each pair of convolutions."""


def mobilenet(
    classes: int = 10, input_shape: Shape = (3, 32, 32), width: int = 32, norm: str = "group"
) -> Sequential:
    """MobileNet, version 1 (Howard et al. 2017, table 1), the first convolution at full size.

    Args:
        width: channels of the first convolution.
    """
    layers: list[Module] = [*_conv(_image(input_shape, 1)[0], width, norm), ReLU()]
    factor = 1
    for wider, stride in _MOBILENET:
        inputs, outputs = factor * width, wider * width
        layers += [*_conv(inputs, inputs, norm, stride=stride, groups=inputs), ReLU()]
        layers += [*_conv(inputs, outputs, norm, kernel=1, padding=0), ReLU()]
        factor = wider
    return Sequential(*layers, *_head(factor * width, classes))


def resnet18(
    classes: int = 10, input_shape: Shape = (3, 32, 32), width: int = 64, norm: str = "group"
) -> Sequential:
    """ResNet-18 (He et al. 2015, table 1) with the usual stem of CIFAR-10: 3x3, without pooling.

    Args:
        width: channels of the first blocks.
    """
    return _resnet([2, 2, 2, 2], classes, input_shape, width, norm, project=True)


def resnet20(
    classes: int = 10, input_shape: Shape = (3, 32, 32), width: int = 16, norm: str = "group"
) -> Sequential:
    """ResNet-20 of CIFAR-10 (He et al. 2015, section 4.2); shortcuts without parameters.

    Args:
        width: channels of the first blocks.
    """
    return _resnet([3, 3, 3], classes, input_shape, width, norm, project=False)


def _resnet(
    depths: list[int], classes: int, input_shape: Shape, width: int, norm: str, project: bool
) -> Sequential:
    layers: list[Module] = [*_conv(_image(input_shape, 1)[0], width, norm), ReLU()]
    channels = width
    for stage, depth in enumerate(depths):
        for block in range(depth):
            stride = 2 if stage and not block else 1
            layers.append(BasicBlock(channels, width << stage, stride, norm, project))
            channels = width << stage
    return Sequential(*layers, *_head(channels, classes))


class BasicBlock(Module):
    """relu(shortcut(x) + f(x)), where f has two 3x3 convolutions (He et al. 2015, section 3.3).

    If f changes the shape of rows, the shortcut is a 1x1 convolution (`project`, the paper's option
    B), or it takes every second pixel and fills new channels with zeros (option A).
    """

    def __init__(self, inputs: int, outputs: int, stride: int, norm: str, project: bool):
        super().__init__()
        self.stride, self.new_channels = stride, outputs - inputs
        self.residual = Sequential(
            *_conv(inputs, outputs, norm, stride=stride),
            ReLU(),
            *_conv(outputs, outputs, norm),
        )
        self.projection = None
        if project and (stride > 1 or self.new_channels):
            self.projection = Sequential(
                *_conv(inputs, outputs, norm, kernel=1, stride=stride, padding=0)
            )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.shortcut(x) + self.residual(x))

    def shortcut(self, x: Tensor) -> Tensor:
        if self.projection is not None:
            return self.projection(x)
        x = x[:, :, :: self.stride, :: self.stride]
        return torch.nn.functional.pad(x, (0, 0, 0, 0, 0, self.new_channels))


def _image(shape: Shape, least: int) -> Shape:
    """Return `shape`, the shape of images with sides of at least `least` pixels.

    Raises:
        ValueError: it is not.
    """
    if len(shape) != 3 or min(shape) < 1 or min(shape[1:]) < least:
        raise ValueError(
            f"input_shape={shape}: expected (channels, height, width), images of at least "
            f"{least}x{least}"
        )
    return shape


def _conv(
    inputs: int,
    outputs: int,
    norm: str,
    kernel: int = 3,
    stride: int = 1,
    padding: int = 1,
    groups: int = 1,
) -> list[Module]:
    """A convolution and its norm, or a convolution with a bias if there is no norm to shift it."""
    as_int("width", outputs, 1)
    after = _norm(norm, outputs, 2)
    bias = not after
    return [Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=bias), *after]


def _norm(kind: str, channels: int, dimensions: int) -> list[Module]:
    """The norm layer of this kind for rows of `dimensions` dimensions, or none."""
    if kind not in NORMS:
        raise ValueError(f"norm={kind!r}: expected one of {', '.join(NORMS)}")
    if kind == "group":
        return [GroupNorm(gcd(_GROUPS, channels), channels)]
    if kind == "batch":
        return [BatchNorm1d(channels) if dimensions == 1 else BatchNorm2d(channels)]
    return []


def _head(channels: int, classes: int) -> list[Module]:
    """The average over all pixels, and a Linear layer."""
    return [AdaptiveAvgPool2d(1), Flatten(), Linear(channels, as_int("classes", classes, 1))]


NETS: dict[str, Callable[..., Sequential]] = {
    net.__name__: net
    for net in (mlp, cnn, lenet, vgg11, vgg16, mobilenet, resnet18, resnet20, gpt2)
}
