"""Models in numpy: a fully connected net, a convolutional net, and LeNet-5."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from numbers import Integral

from nn.arguments import as_row_shape
from nn.layers import Conv2d, Flatten, Layer, Linear, MaxPool2d, ReLU, Shape, Sigmoid, Tanh
from nn.loss import Loss
from nn.model import Model

ACTIVATIONS: dict[str, Callable[[], Layer]] = {
    "relu": lambda: ReLU(in_place=True),  # here it always follows a Linear
    "sigmoid": Sigmoid,
    "tanh": Tanh,
}


def _linears(sizes: Sequence[int], activation: str) -> list[Layer]:
    """Linear layers of the given sizes with activations between them, none after the last."""
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation={activation!r}: expected one of {', '.join(ACTIVATIONS)}")
    if len(sizes) < 2 or not all(
        isinstance(size, Integral) and not isinstance(size, bool) and size >= 1 for size in sizes
    ):
        raise ValueError(
            f"sizes={list(sizes)}: expected at least two whole numbers of at least 1, "
            "inputs first and classes last"
        )
    layers: list[Layer] = []
    last = len(sizes) - 2
    for i, (inputs, outputs) in enumerate(pairwise(map(int, sizes))):
        hidden = activation == "relu" and i < last
        layers.append(Linear(inputs, outputs, gain=math.sqrt(2) if hidden else 1.0))
        if i < last:
            layers.append(ACTIVATIONS[activation]())
    return layers


def mlp(
    sizes: Sequence[int],
    activation: str = "relu",
    dtype: str = "float32",
    seed: int = 0,
    loss: Loss | None = None,
) -> Model:
    """A fully connected net, e.g. `mlp([784, 256, 128, 10])`.

    Args:
        sizes: inputs, hidden widths, classes.
        activation: "relu", "sigmoid" or "tanh", between the layers.
        dtype: "float32" or "float64".
        seed, loss: as for `Model`.

    Raises:
        ValueError: fewer than two sizes, a size that is not a whole number of at least 1, or an
            unknown activation or dtype.
    """
    return Model(_linears(sizes, activation), dtype, seed, loss=loss)


def cnn(
    classes: int = 10,
    input_shape: Shape = (1, 28, 28),
    dtype: str = "float32",
    seed: int = 0,
    loss: Loss | None = None,
    padding: int = 0,
) -> Model:
    """A net of two convolutions with 32 and 64 channels (3x3, 2x2 pooling), then 128-64-classes.

    ReLU follows the pooling, where only a quarter of the elements is left: the two commute.

    Args:
        classes: number of classes.
        input_shape: (channels, height, width) of one image.
        dtype: "float32" or "float64".
        seed, loss: as for `Model`.
        padding: rows and columns of zeros on each side of both convolutions' images. With 1 they
            keep the size: of 28x28 pixels, 64x7x7 features are left instead of 64x5x5.

    Raises:
        TypeError: input_shape is not a sequence of whole numbers, or padding is no whole number.
        ValueError: images smaller than 10x10 (4x4 with padding 1), classes < 1, or padding < 0.
    """
    input_shape = as_row_shape(input_shape)
    layers = [Conv2d(input_shape[0], 32, 3, padding=padding), MaxPool2d(2), ReLU()]
    layers += [Conv2d(32, 64, 3, padding=padding), MaxPool2d(2), ReLU(), Flatten()]
    return _with_head(layers, [128, 64, classes], "relu", input_shape, dtype, seed, loss)


def lenet(
    classes: int = 10,
    input_shape: Shape = (1, 28, 28),
    dtype: str = "float32",
    seed: int = 0,
    loss: Loss | None = None,
) -> Model:
    """LeNet-5: convolutions of 6 and 16 channels (5x5, 2x2 pooling), then 120-84-classes, tanh.

    LeCun, Bottou, Bengio, Haffner, "Gradient-based learning applied to document recognition"
    (1998), section II.B, in its usual modern form: max pooling, all maps connected, softmax.
    Arguments are as for `cnn`.

    Raises:
        TypeError: input_shape is not a sequence of whole numbers.
        ValueError: images smaller than 12x12, or classes < 1.
    """
    input_shape = as_row_shape(input_shape)
    layers = [Conv2d(input_shape[0], 6, 5, padding=2), Tanh(), MaxPool2d(2)]
    layers += [Conv2d(6, 16, 5), Tanh(), MaxPool2d(2), Flatten()]
    return _with_head(layers, [120, 84, classes], "tanh", input_shape, dtype, seed, loss)


def _with_head(
    body: list[Layer],
    sizes: list[int],
    activation: str,
    input_shape: Shape,
    dtype: str,
    seed: int,
    loss: Loss | None,
) -> Model:
    """The model of the layers `body` and a fully connected net with these hidden and last sizes."""
    shape = input_shape
    for layer in body:
        shape = layer.row_shape(shape)
    layers = body + _linears([shape[0], *sizes], activation)
    return Model(layers, dtype, seed, input_shape, loss=loss)
