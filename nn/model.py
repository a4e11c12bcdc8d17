"""A model: consecutive layers over two flat vectors, one of parameters and one of gradients."""

import math
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nn.arguments import as_row_shape
from nn.batch import Batch
from nn.layers import Layer, Linear, Shape, check_in_place
from nn.loss import cross_entropy

DTYPES = ("float32", "float64")


def as_rows(x: NDArray, shape: Shape, dtype: np.dtype) -> NDArray:
    """Rows x as a first layer takes them: of `shape` and `dtype`.

    Raises:
        ValueError: the rows of x have another shape. Sides of 1 do not count, and either may be a
            vector: the other, flattened.
    """
    given, wanted = ([n for n in sides if n != 1] for sides in (x.shape[1:], shape))
    flat = min(len(given), len(wanted)) <= 1 and math.prod(given) == math.prod(wanted)
    if given != wanted and not flat:
        raise ValueError(f"rows of shape {x.shape[1:]}: expected {shape}, flattened or not")
    return x.astype(dtype, copy=False).reshape(len(x), *shape)


class Model:
    """Consecutive layers whose parameters and gradients are two flat vectors.

    Everything parallel follows from this: data parallelism is one collective on one buffer,
    averaging is one operation, and another memory (a shared window, a communication buffer) is
    entered by `bind`.

    Args:
        layers: at least one layer; each must take the rows that the one before it makes.
        dtype: "float32" or "float64".
        seed: of the initial parameters. They are drawn in float64 from one generator, layer after
            layer: two layers of one shape differ, both dtypes begin alike, and every rank that
            builds the model from the same seed begins with the same weights.
        input_shape: of one row, e.g. (1, 28, 28); a Linear first layer knows its own. Batches
            may hold the rows flattened.
        params: values to begin with instead of drawn ones, a flat vector; copied.

    Raises:
        TypeError: something that is not a layer, or not the shape of a row.
        ValueError: no layers, an unsupported dtype, unknown input shape, layers that do not fit
            each other, or params of another length.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        dtype: str = "float32",
        seed: int = 0,
        input_shape: Shape | None = None,
        params: NDArray | None = None,
    ):
        if not layers:
            raise ValueError("a model of no layers: expected at least one")
        if dtype not in DTYPES:
            raise ValueError(f"dtype={dtype!r}: expected one of {', '.join(DTYPES)}")
        for i, layer in enumerate(layers):
            if not isinstance(layer, Layer):
                raise TypeError(f"layer {i} is {layer!r}: expected one of nn.layers")
            if i and layer.only_first:
                raise ValueError(f"layer {i}: {layer} passes no gradient on: expected it first")
        if len({id(layer) for layer in layers}) < len(layers):
            raise ValueError("one layer object stands twice in the model: layers share no weights")
        if input_shape is None:
            if not isinstance(layers[0], Linear):
                raise ValueError(f"{layers[0]} comes first: input_shape=... of one row is needed")
            input_shape = (layers[0].inputs,)
        self.layers = list(layers)
        self.input_shape: Shape = as_row_shape(input_shape)
        self.offsets = [0, *accumulate(layer.n_params for layer in self.layers)]
        """Layer i owns elements offsets[i] to offsets[i + 1] of both vectors."""
        self.row_shape(len(self.layers))
        if params is None:
            check_in_place(layers)
            rng = np.random.default_rng(seed)
            values = [value.ravel() for layer in self.layers for value in layer.init(rng)]
            params = np.concatenate([np.empty(0), *values])
        params = np.array(params, dtype)
        self.bind(params, np.zeros_like(params))

    @property
    def params(self) -> NDArray:
        """All parameters, a flat vector; layer after layer."""
        return self._params

    @property
    def grads(self) -> NDArray:
        """The gradient of the loss of the last `gradients`, like `params`."""
        return self._grads

    @property
    def dtype(self) -> np.dtype:
        return self.params.dtype

    def bind(self, params: NDArray, grads: NDArray) -> None:
        """Move into other memory: `params` and `grads` become the vectors of this model.

        Values are not copied; fill `params` before. Complex vectors are taken for complex-step
        differentiation.

        Raises:
            ValueError: a wrong length or memory layout, or two different dtypes.
        """
        for name, vector in (("params", params), ("grads", grads)):
            if vector.shape != (self.offsets[-1],) or not vector.flags.c_contiguous:
                raise ValueError(
                    f"{name} of shape {vector.shape}: expected a contiguous vector of "
                    f"{self.offsets[-1]} elements"
                )
        if params.dtype != grads.dtype:
            raise ValueError(f"params are {params.dtype} and grads {grads.dtype}: expected one")
        self._params, self._grads = params, grads
        for layer, lo, hi in zip(self.layers, self.offsets, self.offsets[1:]):
            layer.bind(params[lo:hi], grads[lo:hi])

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Deep copies of views are arrays of their own: make them views again."""
        self.__dict__.update(state)
        self.bind(self._params, self._grads)

    def stage(self, lo: int, hi: int) -> "Stage":
        """Layers lo to hi - 1 as a model of their own over the same memory.

        Raises:
            ValueError: unless 0 <= lo < hi <= number of layers.
        """
        return Stage(self, lo, hi)

    def row_shape(self, upto: int) -> Shape:
        """Shape of one row after the first `upto` layers; of the input for 0."""
        shape = self.input_shape
        for i, layer in enumerate(self.layers[:upto]):
            try:
                shape = layer.row_shape(shape)
            except ValueError as error:
                raise ValueError(f"layer {i}: {error}") from None
        return shape

    def forward(self, x: NDArray) -> tuple[NDArray, list[Any]]:
        """Output of the last layer for rows x, and the layers' contexts for `backward`.

        Raises:
            ValueError: the rows of x have another shape than the model's input, see `as_rows`.
        """
        x = as_rows(x, self.input_shape, self.dtype)
        contexts = []
        for layer in self.layers:
            x, ctx = layer.forward(x)
            contexts.append(ctx)
        return x, contexts

    def backward(
        self,
        dy: NDArray,
        contexts: list[Any],
        need_dx: bool = False,
        add: bool = False,
        ready: Callable[[int], None] | None = None,
    ) -> NDArray | None:
        """Write (or add) the gradient, return that of the input if it is asked for.

        Args:
            dy: gradient of the loss with respect to the output; may be overwritten.
            ready: called with i when the gradient of layer i is final, last layer first.
        """
        for i in reversed(range(len(self.layers))):
            dx = self.layers[i].backward(dy, contexts[i], need_dx or i > 0, add)
            if ready:
                ready(i)
            if dx is not None:
                dy = dx
        return dx

    def gradients(
        self, batch: Batch, add: bool = False, ready: Callable[[int], None] | None = None
    ) -> float:
        """Loss and gradient of the rows that `batch` holds, over its global row count.

        Shards of one batch therefore sum to the batch, and an empty shard adds nothing.
        """
        logits, contexts = self.forward(batch.x)
        loss, dlogits = cross_entropy(logits, batch.y, batch.global_count)
        self.backward(dlogits, contexts, add=add, ready=ready)
        return loss

    def predict(self, x: NDArray, rows: int = 1024) -> NDArray:
        """Most likely class of each row of x, (n,) int64, computed `rows` at a time."""
        parts = [
            self.forward(np.asarray(x[i : i + rows]))[0].argmax(axis=1)
            for i in range(0, len(x), rows)
        ]
        return np.concatenate([np.empty(0, np.int64), *parts])

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.layers))})"


class Stage(Model):
    """Consecutive layers of a model, over the model's own memory, wherever that is bound."""

    def __init__(self, whole: Model, lo: int, hi: int):
        if not 0 <= lo < hi <= len(whole.layers):
            raise ValueError(
                f"stage of layers {lo} to {hi}: expected 0 <= lo < hi <= {len(whole.layers)}"
            )
        self.whole = whole
        self.layers = whole.layers[lo:hi]
        self.input_shape = whole.row_shape(lo)
        self._start = whole.offsets[lo]
        self.offsets = [offset - self._start for offset in whole.offsets[lo : hi + 1]]

    # Read through the whole, so that binding it after the stage was made cannot leave it stale.
    @property
    def params(self) -> NDArray:
        return self.whole.params[self._start : self._start + self.offsets[-1]]

    @property
    def grads(self) -> NDArray:
        return self.whole.grads[self._start : self._start + self.offsets[-1]]

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)  # the whole has bound the layers

    def bind(self, params: NDArray, grads: NDArray) -> None:
        """Raises ValueError: bind the whole model; its stages follow."""
        raise ValueError("a stage shares its model's memory: bind the whole model instead")
