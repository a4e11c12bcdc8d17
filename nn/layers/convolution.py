"""Layers that slide a window over images: convolution and max pooling.

Images have shape (rows, channels, height, width), as in torch. In memory channels vary fastest:
a window's row is then one contiguous run, which is what makes im2col and pooling fast in numpy.
"""

import math
from collections.abc import Iterator

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from nn.arguments import as_int
from nn.layers.base import Layer, Shape, write_row_sum


def _size_out(shape: Shape, size: int, stride: int, padding: int, layer: Layer) -> tuple[int, int]:
    """Height and width after `layer` slides a `size` x `size` window over rows of `shape`.

    Raises:
        ValueError: rows of `shape` are no images, or smaller than the window.
    """
    if len(shape) != 3:
        raise ValueError(
            f"{layer} cannot take rows of shape {shape}: expected (channels, height, width)"
        )
    height, width = ((n + 2 * padding - size) // stride + 1 for n in shape[1:])
    if height < 1 or width < 1:
        raise ValueError(f"{layer} is larger than rows of shape {shape} with padding {padding}")
    return height, width


def _channels_last(x: NDArray) -> NDArray:
    """x as a contiguous (rows, height, width, channels) array; free for our own activations."""
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1))


def _windows(image: NDArray, i: int, j: int, stride: int, height: int, width: int) -> NDArray:
    """Element (i, j) of every window of a channels-last image: (rows, height, width, channels)."""
    rows = slice(i, i + stride * (height - 1) + 1, stride)
    columns = slice(j, j + stride * (width - 1) + 1, stride)
    return image[:, rows, columns]


class Conv2d(Layer):
    """Cross-correlation with weights (outputs, inputs, size, size), as in torch.nn.Conv2d.

    The layer computes one matrix product of all windows laid out as rows (im2col; Chellapilla,
    Puri, Simard, "High performance convolutional neural networks for document processing", 2006).

    Args:
        inputs, outputs: channels.
        size: height and width of the window, pixels.
        stride: pixels from one window to the next, in both directions.
        padding: rows and columns of zeros on each side of the image.
    """

    def __init__(self, inputs: int, outputs: int, size: int, stride: int = 1, padding: int = 0):
        self.inputs, self.outputs = as_int("inputs", inputs, 1), as_int("outputs", outputs, 0)
        self.size = as_int("size", size, 1)
        self.stride, self.padding = as_int("stride", stride, 1), as_int("padding", padding, 0)
        self.shapes = ((self.outputs, self.inputs, self.size, self.size), (self.outputs,))

    def init(self, rng):
        std = math.sqrt(2 / (self.inputs * self.size**2))
        return rng.normal(0, std, self.shapes[0]), np.zeros(self.outputs)

    def row_shape(self, shape):
        height, width = _size_out(shape, self.size, self.stride, self.padding, self)
        if shape[0] != self.inputs:
            raise ValueError(f"{self} cannot take {shape[0]} channels: expected {self.inputs}")
        return (self.outputs, height, width)

    def _matrix(self) -> NDArray:
        """Weights as (size * size * inputs, outputs), in the order of a window's elements."""
        return self.params[0].transpose(2, 3, 1, 0).reshape(self._fan_in, self.outputs)

    @property
    def _fan_in(self) -> int:
        return self.inputs * self.size**2

    def forward(self, x):
        n, (_, height, width) = len(x), self.row_shape(x.shape[1:])
        p, s = self.padding, self.size
        image = _channels_last(x)
        if p:
            image = np.pad(image, ((0, 0), (p, p), (p, p), (0, 0)))
        windows = sliding_window_view(image, (s, s), axis=(1, 2))[:, :: self.stride, :: self.stride]
        columns = windows.transpose(0, 1, 2, 4, 5, 3).reshape(n * height * width, self._fan_in)
        y = columns @ self._matrix()
        y += self.params[1]
        y = y.reshape(n, height, width, self.outputs).transpose(0, 3, 1, 2)
        return y, (columns, image.shape)

    def backward(self, dy, ctx, need_dx=True, add=False):
        columns, _ = ctx
        s, (n, _, height, width) = self.size, dy.shape
        dy = _channels_last(dy)
        rows = dy.reshape(n * height * width, self.outputs)
        dw = (rows.T @ columns).reshape(self.outputs, s, s, self.inputs).transpose(0, 3, 1, 2)
        if add:
            self.grads[0][...] += dw
        else:
            self.grads[0][...] = dw
        write_row_sum(rows, self.grads[1], add)
        return self.input_gradient(dy.transpose(0, 3, 1, 2), ctx) if need_dx else None

    def input_gradient(self, dy: NDArray, ctx: tuple[NDArray, Shape]) -> NDArray:
        """What `backward` returns, without the gradient of the parameters."""
        _, image_shape = ctx
        n, _, height, width = dy.shape
        p, s = self.padding, self.size
        rows = _channels_last(dy).reshape(n * height * width, self.outputs)
        dcolumns = (rows @ self._matrix().T).reshape(n, height, width, s, s, self.inputs)
        dx = np.zeros(image_shape, dy.dtype)
        for i in range(s):
            for j in range(s):
                window = _windows(dx, i, j, self.stride, height, width)
                window += dcolumns[:, :, :, i, j]
        if p:
            dx = dx[:, p:-p, p:-p]
        return dx.transpose(0, 3, 1, 2)

    def __repr__(self) -> str:
        return (
            f"Conv2d({self.inputs}, {self.outputs}, {self.size}, stride={self.stride}, "
            f"padding={self.padding})"
        )


class MaxPool2d(Layer):
    """The largest element of every window; the first of equals receives the gradient, as in torch.

    Args:
        size: height and width of the window, pixels.
        stride: pixels from one window to the next; `size` by default. Pixels that do not fill a
            last window are left out.
    """

    def __init__(self, size: int, stride: int | None = None):
        self.size = as_int("size", size, 1)
        self.stride = self.size if stride is None else as_int("stride", stride, 1)

    def row_shape(self, shape):
        return (shape[0], *_size_out(shape, self.size, self.stride, 0, self))

    def _elements(self, image: NDArray, height: int, width: int) -> Iterator[NDArray]:
        """Element (0, 0) of every window, then element (0, 1) of every window, and so on."""
        for i in range(self.size):
            for j in range(self.size):
                yield _windows(image, i, j, self.stride, height, width)

    def forward(self, x):
        _, height, width = self.row_shape(x.shape[1:])
        image = _channels_last(x)
        first, *others = self._elements(image, height, width)
        y = first.copy()
        for element in others:
            np.maximum(y, element, out=y)
        return y.transpose(0, 3, 1, 2), (image, y)

    def backward(self, dy, ctx, need_dx=True, add=False):
        image, y = ctx
        left = _channels_last(dy)
        dx = np.zeros_like(image)
        _, height, width, _ = y.shape
        for element, d in zip(
            self._elements(image, height, width), self._elements(dx, height, width)
        ):
            share = left * (element == y)
            d += share
            left = left - share  # what the first of equals took is gone for the others
        return dx.transpose(0, 3, 1, 2)

    def __repr__(self) -> str:
        return f"MaxPool2d({self.size}, stride={self.stride})"
