"""The model: consecutive layers over one flat vector of parameters and one of gradients."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nn.batch import Batch
from nn.inputs import as_input_shape, as_rows, count_rows, has_several, take_rows
from nn.layers import Frozen, Layer, Linear, Shape, check_in_place
from nn.layers.ties import lend, tie
from nn.loss import CROSS_ENTROPY, Loss
from nn.parameters import Parameter

DTYPES = ("float32", "float64")


class Model:
    """Consecutive layers whose parameters and gradients are two flat vectors.

    Parallel training builds on this: data parallelism is one collective on one buffer, averaging
    is one operation, and `bind` moves the model into other memory, such as a shared window.

    Args:
        layers: at least one layer; each must take the rows that the layer before it makes.
        dtype: "float32" or "float64".
        seed: seed of the initial parameters. They are drawn in float64 from one generator, layer
            after layer. So two layers of one shape differ, both dtypes begin alike, and every rank
            that builds the model from the same seed begins with the same weights.
        input_shape: shape of one row, e.g. (1, 28, 28). It may be left out where a Linear comes
            first. Batches may hold the rows flattened.
        params: initial values in place of drawn ones, a flat vector; it is copied.
        loss: what is trained to be small, one of `nn.loss`; by default `CrossEntropy()`.

    Raises:
        TypeError: a layer is not a Layer, input_shape is not a sequence of whole numbers, or loss
            is not a Loss.
        ValueError: no layers, an unsupported dtype, an unknown input shape, layers that do not fit
            each other, or params of another length.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        dtype: str = "float32",
        seed: int = 0,
        input_shape: Shape | None = None,
        params: NDArray | None = None,
        loss: Loss | None = None,
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
        self.loss = CROSS_ENTROPY if loss is None else loss
        if not isinstance(self.loss, Loss):
            raise TypeError(f"loss={loss!r}: expected one of nn.loss, e.g. MeanSquaredError()")
        if len({id(layer) for layer in layers}) < len(layers):
            raise ValueError("one layer object stands twice in the model: layers share no weights")
        if input_shape is None:
            first = layers[0].layer if isinstance(layers[0], Frozen) else layers[0]
            if not isinstance(first, Linear):
                raise ValueError(f"{layers[0]} comes first: input_shape=... of one row is needed")
            input_shape = (first.inputs,)
        self.layers = list(layers)
        tie(self.layers)
        self.input_shape: Any = as_input_shape(input_shape)
        if has_several(self.input_shape) and not layers[0].takes_several:
            raise ValueError(
                f"input_shape={input_shape!r} of several inputs: {layers[0]} takes one; expected a "
                "TorchModel whose first module takes several tensors"
            )
        self.offsets = [0, *accumulate(layer.n_params for layer in self.layers)]
        """Layer i owns elements offsets[i] to offsets[i + 1] of both vectors."""
        self.row_shape(len(self.layers))
        self.kinds = self.layers[0].kinds(self.input_shape)
        """Kinds of numbers that the inputs take, see `nn.inputs`."""
        if params is None:
            check_in_place(layers)
            rng = np.random.default_rng(seed)
            values = [value.ravel() for layer in self.layers for value in layer.init(rng)]
            params = np.concatenate([np.empty(0), *values])
        params = np.array(params, dtype)
        self.bind(params, np.zeros_like(params))

    @property
    def params(self) -> NDArray:
        """The parameters of all layers, one after the other, as a flat vector."""
        return self._params

    @property
    def grads(self) -> NDArray:
        """The gradient that the last call of `gradients` wrote, in the order of `params`."""
        return self._grads

    @property
    def parameters(self) -> list[Parameter]:
        """The parameters by name, in the order in which they lie in `params`.

        Layer 3's are called "3.weight" and "3.bias", as in torch.
        """
        found = []
        for i, (layer, start) in enumerate(zip(self.layers, self.offsets)):
            for name, shape in zip(layer.names, layer.shapes):
                may_lack = name in layer.may_lack_gradient
                found.append(Parameter(layer.name_in_model(i, name), start, shape, may_lack))
                start = found[-1].stop
        return found

    @property
    def dtype(self) -> np.dtype:
        return self.params.dtype

    def bind(self, params: NDArray, grads: NDArray) -> None:
        """Make `params` and `grads` the vectors of this model.

        Values are not copied, so fill `params` first. Complex vectors are allowed, for
        complex-step differentiation.

        Raises:
            ValueError: a vector has another length or is not contiguous, or the dtypes differ.
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
        lend(self.layers)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Make views again of the layers' arrays, which a deep copy has separated."""
        self.__dict__.update(state)
        self.bind(self._params, self._grads)

    @cached_property
    def first_trained(self) -> int:
        """The first layer with parameters, below which backward computes nothing."""
        trained = (i for i, layer in enumerate(self.layers) if layer.is_trained)
        return next(trained, len(self.layers))

    @property
    def frozen(self) -> dict[str, Any]:
        """What training leaves as it is, by name: the arrays in `Layer.frozen` of all layers."""
        found: dict[str, Any] = {}
        for i, layer in enumerate(self.layers):
            for name, value in layer.frozen.items():
                found.setdefault(layer.name_in_model(i, name), value)
        return found

    def stage(self, lo: int, hi: int) -> "Stage":
        """Layers lo to hi - 1 as a model that shares the memory of this one.

        Raises:
            ValueError: not 0 <= lo < hi <= number of layers.
        """
        return Stage(self, lo, hi)

    def row_shape(self, upto: int) -> Any:
        """Shape of one row after the first `upto` layers; the input shape for 0.

        Raises:
            ValueError: two layers do not fit each other.
        """
        shape = self.input_shape
        for i, layer in enumerate(self.layers[:upto]):
            try:
                shape = layer.row_shape(shape)
            except ValueError as error:
                raise ValueError(f"layer {i}: {error}") from None
        return shape

    def forward(self, x: NDArray) -> tuple[NDArray, list[Any]]:
        """Output of the last layer for rows x, and the contexts of all layers for `backward`.

        Raises:
            ValueError: the rows of x have another shape than the model's input, see `as_rows`.
        """
        x = as_rows(x, self.input_shape, self.dtype, self.kinds)
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
        """Write the gradient of the parameters; return the gradient of the input if asked for.

        Args:
            dy: gradient of the loss with respect to the output; may be overwritten.
            contexts: what `forward` returned.
            need_dx: whether to compute the gradient of the input.
            add: add to `grads` instead of replacing it.
            ready: called with i when the gradient of layer i is final, last layer first.
        """
        first, dx = self.first_trained, None
        for i in reversed(range(len(self.layers))):
            if need_dx or i >= first:
                dx = self.layers[i].backward(dy, contexts[i], need_dx or i > first, add)
                if dx is not None:
                    dy = dx
            if ready:
                ready(i)
        return dx if need_dx else None

    def gradients(
        self, batch: Batch, add: bool = False, ready: Callable[[int], None] | None = None
    ) -> float:
        """Write the gradient of the loss over the rows that `batch` holds; return the loss.

        Both are sums over these rows, divided by what counts in the global batch. So the losses
        and gradients of all shards add up to those of the batch, and an empty shard adds nothing.

        Args:
            batch: a batch or a shard of one.
            add: add to `grads` instead of replacing it.
            ready: called with i when the gradient of layer i is final, last layer first.

        Raises:
            ValueError: rows or targets do not fit the model or its loss.
        """
        outputs, contexts = self.forward(batch.x)
        loss, dy = self.loss(outputs, batch.y, batch.count(self.loss), batch.weights)
        self.backward(dy, contexts, add=add, ready=ready)
        return loss

    def predict(self, x: NDArray, rows: int = 1024) -> NDArray:
        """What the loss takes the outputs for, computed `rows` rows of x at a time.

        Behind cross-entropy that is the most likely class of each row, (n,) int64.
        """
        with self._evaluating():
            return np.concatenate([*map(self.loss.predict, self._by_rows(x, rows))])

    def outputs(self, x: NDArray, rows: int = 1024) -> NDArray:
        """What the last layer makes of x when no training is under way, `rows` rows at a time.

        Behind cross-entropy that are the logits of each row, (n, classes).
        """
        with self._evaluating():
            return np.concatenate([*self._by_rows(x, rows)])

    def loss_of(self, batch: Batch, rows: int = 1024) -> float:
        """Return the loss over the rows that `batch` holds when no training is under way.

        As in `gradients`, it is divided by what counts in the global batch, so the losses of all
        shards add up to that of the batch, and each row counts once.

        Args:
            rows: how many are computed at a time, at most.
        """
        parts = max(1, -(-len(batch) // rows))
        total = 0.0
        with self._evaluating():
            for part in (batch.shard(i, parts) for i in range(parts)):
                outputs, _ = self.forward(part.x)
                count = part.count(self.loss)
                total += float(self.loss(outputs, part.y, count, part.weights)[0])
        return total

    def _evaluating(self) -> AbstractContextManager:
        """A context in which layers compute as they do when no training is under way."""
        return nullcontext()

    def _by_rows(self, x: NDArray, rows: int) -> Iterator[NDArray]:
        for i in range(0, max(count_rows(x), 1), rows):
            yield self.forward(take_rows(x, slice(i, i + rows)))[0]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.layers))})"


class Stage(Model):
    """Consecutive layers of a model that live in the model's memory, wherever it is bound."""

    def __init__(self, whole: Model, lo: int, hi: int):
        if not 0 <= lo < hi <= len(whole.layers):
            raise ValueError(
                f"stage of layers {lo} to {hi}: expected 0 <= lo < hi <= {len(whole.layers)}"
            )
        self.whole, self.loss = whole, whole.loss
        self.layers = whole.layers[lo:hi]
        self.input_shape = whole.row_shape(lo)
        self.kinds = "f" if lo else whole.kinds
        self.start = whole.offsets[lo]
        self.offsets = [offset - self.start for offset in whole.offsets[lo : hi + 1]]

    # Read through the whole model, so that a later `bind` of it cannot leave the stage stale.
    @property
    def params(self) -> NDArray:
        return self.whole.params[self.start : self.start + self.offsets[-1]]

    @property
    def grads(self) -> NDArray:
        return self.whole.grads[self.start : self.start + self.offsets[-1]]

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)  # the whole model has bound the layers

    def bind(self, params: NDArray, grads: NDArray) -> None:
        """Refuse: a stage follows the model that it belongs to.

        Raises:
            ValueError: always.
        """
        raise ValueError("a stage shares its model's memory: bind the whole model instead")
