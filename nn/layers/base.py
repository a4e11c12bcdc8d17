"""Layers: a forward and a backward function over parameters that live in somebody else's vector.

A layer's `forward` returns what `backward` will need (`ctx`) instead of keeping it, so any number
of micro-batches may be between their forward and their backward at once. Parameters and gradients
are views that `bind` is given; a layer allocates neither.

Images have shape (rows, channels, height, width), as in torch. In memory channels vary fastest:
a window's row is then one contiguous run, which is what makes im2col and pooling fast in numpy.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from nn.arguments import as_int

Shape = tuple[int, ...]


class Layer:
    """The contract of all layers, and what a layer without parameters needs of it."""

    shapes: tuple[Shape, ...] = ()
    """Shapes of the parameters, in the order in which they lie in the flat vector."""

    params: tuple[NDArray, ...] = ()
    grads: tuple[NDArray, ...] = ()

    only_first = False
    """There is no gradient of its input, so that nothing may come before it in a model."""

    rows_each = 1
    """Rows that it makes of each; a language model's last layers may make one for each token."""

    @property
    def n_params(self) -> int:
        """Number of parameters."""
        return sum(math.prod(shape) for shape in self.shapes)

    def init(self, rng: np.random.Generator) -> tuple[NDArray, ...]:
        """Initial values of the parameters, float64."""
        return ()

    def bind(self, params: NDArray, grads: NDArray) -> None:
        """Point the parameter and gradient views into two vectors of length `n_params`."""
        ends = np.cumsum([math.prod(shape) for shape in self.shapes])[:-1]
        self.params, self.grads = (
            tuple(part.reshape(shape) for part, shape in zip(np.split(v, ends), self.shapes))
            if self.shapes
            else ()
            for v in (params, grads)
        )

    def row_shape(self, shape: Shape) -> Shape:
        """Shape of one output row for one input row of `shape`.

        Raises:
            ValueError: the layer cannot take such rows.
        """
        return shape

    def forward(self, x: NDArray) -> tuple[NDArray, Any]:
        """Output, and the context that `backward` needs. Never writes into x (but see ReLU)."""
        raise NotImplementedError

    def backward(
        self, dy: NDArray, ctx: Any, need_dx: bool = True, add: bool = False
    ) -> NDArray | None:
        """Write (or add) the gradients of the parameters, return that of the input.

        May overwrite dy. `need_dx=False` skips the input's gradient, in a first layer the
        largest product that nobody uses.
        """
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


def _matmul(a: NDArray, b: NDArray, out: NDArray, add: bool) -> None:
    if add:
        out += a @ b
    else:
        np.matmul(a, b, out=out)


def _sum_rows(dy: NDArray, out: NDArray, add: bool) -> None:
    _matmul(np.ones(len(dy), dy.dtype), dy, out, add)  # half the time of dy.sum(axis=0)


class Linear(Layer):
    """y = x W^T + b with W of shape (outputs, inputs), as in torch.nn.Linear.

    Args:
        inputs, outputs: features; outputs may be 0 (an empty tensor-parallel shard).
        gain: weights begin as normal numbers of standard deviation gain / sqrt(inputs): sqrt(2)
            before a ReLU (He et al., "Delving deep into rectifiers", 2015), 1 otherwise. Biases
            begin at 0.
    """

    def __init__(self, inputs: int, outputs: int, gain: float = math.sqrt(2)):
        self.inputs, self.outputs = as_int("inputs", inputs, 0), as_int("outputs", outputs, 0)
        self.gain = gain
        self.shapes = ((self.outputs, self.inputs), (self.outputs,))

    def init(self, rng):
        std = self.gain / math.sqrt(max(self.inputs, 1))
        return rng.normal(0, std, self.shapes[0]), np.zeros(self.outputs)

    def row_shape(self, shape):
        if shape != (self.inputs,):
            raise ValueError(f"{self} cannot take rows of shape {shape}: expected {self.inputs}")
        return (self.outputs,)

    def forward(self, x):
        weight, bias = self.params
        y = x @ weight.T
        y += bias
        return y, x

    def backward(self, dy, ctx, need_dx=True, add=False):
        _matmul(dy.T, ctx, self.grads[0], add)
        _sum_rows(dy, self.grads[1], add)
        return dy @ self.params[0] if need_dx else None

    def __repr__(self) -> str:
        return f"Linear({self.inputs}, {self.outputs})"


class Flatten(Layer):
    """Rows of any shape to vectors, in (channels, height, width) order."""

    def row_shape(self, shape):
        return (math.prod(shape),)

    def forward(self, x):
        return x.reshape(len(x), math.prod(x.shape[1:])), x.shape

    def backward(self, dy, ctx, need_dx=True, add=False):
        return dy.reshape(ctx)


class ReLU(Layer):
    """max(x, 0).

    Args:
        in_place: overwrite the input, one array less in the cache. Only where nobody else needs
            it: after a Linear or Conv2d, whose `backward` does not look at its output.
    """

    def __init__(self, in_place: bool = False):
        self.in_place = in_place

    def forward(self, x):
        y = np.maximum(x, 0, out=x if self.in_place else None)
        return y, y

    def backward(self, dy, ctx, need_dx=True, add=False):
        dy *= ctx > 0
        return dy


def check_in_place(layers: Sequence[Layer]) -> None:
    """Of layers that are given rows which they must leave alone.

    Raises:
        ValueError: a ReLU works in place on these; a Flatten shows them in another shape only.
    """
    first = next((layer for layer in layers if not isinstance(layer, Flatten)), None)
    if isinstance(first, ReLU) and first.in_place:
        raise ValueError(
            "ReLU(in_place=True) comes first and would overwrite its rows, which others need: "
            "expected it behind a Linear or Conv2d"
        )


class Tanh(Layer):
    """The hyperbolic tangent."""

    def forward(self, x):
        y = np.tanh(x)
        return y, y

    def backward(self, dy, ctx, need_dx=True, add=False):
        dy *= 1 - ctx * ctx
        return dy


class Sigmoid(Layer):
    """1 / (1 + exp(-x)), computed as (1 + tanh(x / 2)) / 2, which does not overflow."""

    def forward(self, x):
        y = np.tanh(x / 2)
        y += 1
        y /= 2
        return y, y

    def backward(self, dy, ctx, need_dx=True, add=False):
        dy *= ctx * (1 - ctx)
        return dy


def _pair_out(shape: Shape, size: int, stride: int, padding: int, layer: Layer) -> tuple[int, int]:
    """Height and width after sliding a `size` x `size` window over rows of `shape`."""
    if len(shape) != 3:
        raise ValueError(
            f"{layer} cannot take rows of shape {shape}: expected (channels, height, width)"
        )
    height, width = ((n + 2 * padding - size) // stride + 1 for n in shape[1:])
    if height < 1 or width < 1:
        raise ValueError(f"{layer} is larger than rows of shape {shape} with padding {padding}")
    return height, width


def _channels_last(x: NDArray) -> NDArray:
    """(rows, height, width, channels), contiguous: free of cost for our own activations."""
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1))


def _windows(image: NDArray, i: int, j: int, stride: int, height: int, width: int) -> NDArray:
    """Element (i, j) of every window of a channels-last image: (rows, height, width, channels)."""
    rows = slice(i, i + stride * (height - 1) + 1, stride)
    columns = slice(j, j + stride * (width - 1) + 1, stride)
    return image[:, rows, columns]


class Conv2d(Layer):
    """Cross-correlation with weights (outputs, inputs, size, size), as in torch.nn.Conv2d.

    Computed as one matrix product of all windows laid out as rows (im2col; Chellapilla, Puri,
    Simard, "High performance convolutional neural networks for document processing", 2006).

    Args:
        inputs, outputs: channels.
        size: of the square window, pixels; `stride` and `padding` (zeros) likewise.
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
        height, width = _pair_out(shape, self.size, self.stride, self.padding, self)
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
        columns, image_shape = ctx
        n, _, height, width = dy.shape
        p, s = self.padding, self.size
        dy = _channels_last(dy).reshape(n * height * width, self.outputs)
        dw = (dy.T @ columns).reshape(self.outputs, s, s, self.inputs).transpose(0, 3, 1, 2)
        if add:
            self.grads[0][...] += dw
        else:
            self.grads[0][...] = dw
        _sum_rows(dy, self.grads[1], add)
        if not need_dx:
            return None
        dcolumns = dy @ self._matrix().T
        dcolumns = dcolumns.reshape(n, height, width, s, s, self.inputs)
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
        size: of the square window, pixels; `stride` likewise, by default the same. Pixels that
            do not fill a last window are left out.
    """

    def __init__(self, size: int, stride: int | None = None):
        self.size = as_int("size", size, 1)
        self.stride = self.size if stride is None else as_int("stride", stride, 1)

    def row_shape(self, shape):
        return (shape[0], *_pair_out(shape, self.size, self.stride, 0, self))

    def _elements(self, image: NDArray, height: int, width: int):
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
