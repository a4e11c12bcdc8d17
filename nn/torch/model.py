"""Torch modules as models over two flat vectors, so that every strategy can train them."""

import copy
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from types import EllipsisType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nn.arguments import as_int
from nn.batch import Batch
from nn.inputs import as_rows
from nn.layers.dropout import rows_of
from nn.model import Model
from nn.own_methods import replaced_in_object
from nn.torch.batch_norm import RunningStatistics, synchronise
from nn.torch.block import TorchBlock, divisible
from nn.torch.dropout import Clock, draw_masks, forget_masks
from nn.torch.embedding import take_floats
from nn.torch.layer import TorchLayer
from nn.torch.linear import TorchLinear, splittable
from nn.torch.loss import as_loss
from nn.torch.modules import (
    check_parameters,
    copied_layers,
    draw_parameters,
    dtype_of,
    input_shape_of,
)
from nn.torch.row_check import check_no_rows

Modules = torch.nn.Module | Sequence[torch.nn.Module]


class TorchModel(Model):
    """A `Model` whose layers are torch modules.

    Each child of a `torch.nn.Sequential` is one layer (Sequentials inside it are opened too), and
    so is each module of a list. Any other module is a single layer: data parallelism can train it,
    but a pipeline cannot cut it into stages.

    Parameters that require no gradient are frozen: they are in the modules, but not in the flat
    vectors. Parameters that several layers share (tied weights) are in the vectors once, where the
    first of these layers has them.

    Args:
        modules: a Sequential, a list of modules, another module, or a function without arguments
            that builds one of these. Modules are copied, and the copy is trained; see `module`.
        device: where torch computes: "cpu", "cuda" (or "cuda:1", ...), "mps". On every device the
            flat vectors are numpy arrays in host memory, and a call returns once its results are
            there, so its time includes waiting for the device.
        dtype: "float32" or "float64"; by default the dtype of the modules' parameters.
        seed: by default, a module that is given keeps its parameters, a list of modules is drawn
            anew by seed 0 (which is logged once), and a function is called with torch's generator
            seeded by 0. A number, equal on every rank, seeds a function in
            the place of 0, and draws the parameters of modules that are given anew: weights of
            Linear and convolution as in `nn` (normal with standard deviation sqrt(2 / inputs), or
            sqrt(1 / inputs) for a Linear that no ReLU follows; biases 0), so numpy and torch
            versions of one net begin alike; other modules by their `reset_parameters`, with torch's
            generator seeded; frozen parameters never. None keeps the parameters of modules, and
            leaves torch's generator to a function as it is. Dropout masks are drawn by the number,
            or 0.
        input_shape: shape of one row, e.g. (1, 28, 28). It may be left out where a Linear comes
            first. Batches may hold the rows flattened. For a first module of several inputs, a
            tuple or dict of shapes: it is called as module(*x) or module(**x), x of the batch
            being a tuple or dict of arrays. Floats take the model's dtype; whole numbers (as
            int64) and bools stay what they are where the module takes them.
        params: initial values in place of drawn ones, a flat vector; it is copied.
        clock: an object whose `steps` counts the steps; by default the optimizer of the strategy
            that takes them. Dropout needs it: a mask depends on seed, layer, step, row and unit, so
            it is the same for any number of ranks and micro-batches.
        sync_batch_norm: the communicator of a data-parallel strategy. Batch norm then takes mean
            and variance over the rows of all its ranks, as one process takes them over the whole
            batch. By default each rank (and micro-batch) takes its own; see also `statistics`.
        compute: "bfloat16" computes in mixed precision (torch.autocast); parameters, gradients and
            messages stay in `dtype`, which must be float32.
        loss: a loss of torch.nn, a function of (outputs, targets), or one of `nn.loss`; by default
            `nn.loss.CrossEntropy()`. See `nn.torch.loss.as_loss`.

    Raises:
        TypeError: `modules` or `loss` is of none of these kinds.
        ValueError: the modules cannot be wrapped, and the message says why: layers share buffers;
            parameters have another dtype, or have no shape yet; a module mixes rows. Also a device
            that is not there, and everything that `Model` refuses.
    """

    def __init__(
        self,
        modules: Modules | Callable[[], Modules],
        device: str = "cpu",
        dtype: str | None = None,
        seed: int | EllipsisType | None = ...,
        input_shape: Any = None,
        params: NDArray | None = None,
        clock: Any = None,
        sync_batch_norm: Any = None,
        compute: str | None = None,
        loss: Any = None,
        *,
        _tried: Sequence[TorchLayer] = (),  # of a model of equal modules; see `converted`
    ):
        drawn = isinstance(modules, torch.nn.Module) or not callable(modules)
        if seed is ...:
            drawn, seed = isinstance(modules, (list, tuple)) and params is None, 0
            if drawn:
                _say_that_lists_are_drawn()
        elif seed is None:
            drawn = False
        else:
            seed = as_int("seed", seed, 0)
        loss = as_loss(loss)
        place = _device(device)
        layers, names = copied_layers(modules, seed)
        dtype = dtype_of(layers, dtype)
        precision = _precision(compute, dtype)
        net = torch.nn.Sequential(*layers).to("cpu", getattr(torch, dtype))
        check_parameters(net)
        if params is None:
            if drawn and seed is not None:
                draw_parameters(net, seed)
            params = _trainable(net, dtype)
        self.seed, self.compute, self.sync_batch_norm = seed, compute, sync_batch_norm
        self.dropout_clock = Clock(clock)
        """Where a strategy enters the optimizer that counts the steps; see `clock`."""
        self._make_splittable(net)
        paths = list(dict.fromkeys(path for of_layer in names for path in of_layer))
        self._whole = TorchLayer(net, place, precision, paths)
        """All layers as one: torch then builds one graph, which costs less than one per layer."""
        self.statistics = RunningStatistics(net)
        """Running statistics of batch norm. They are over the rows of this rank until a strategy's
        `weights` or `state` gathers those of all ranks."""
        users = Counter(path for of_layer in names for path in of_layer)
        kinds = [
            _kind(module) if {users[path] for path in of_layer} == {1} else TorchLayer
            for module, of_layer in zip(net, names)
        ]
        its_layers = [
            kind(module, place, precision, of_layer)
            for kind, module, of_layer in zip(kinds, net, names)
        ]
        for layer, like in zip(its_layers, _tried):
            layer.know(like)
        super().__init__(
            its_layers,
            dtype,
            input_shape=input_shape_of(net) if input_shape is None else input_shape,
            params=params,
            loss=loss,
        )
        for i, (layer, module) in enumerate(zip(its_layers, net)):
            if layer.drops:  # found by the trial of its rows
                draw_masks(module, (self.seed or 0, i), self.dropout_clock.step)
                self._whole.drops = True
        self._find_unused()
        # Each layer was found to keep rows apart, so all of them do: no new check of the whole.
        self._whole.row_shapes[self.input_shape] = self.row_shape(len(self.layers))
        self._whole.kinds_of[self.input_shape] = self.kinds
        if getattr(sync_batch_norm, "size", 1) > 1:
            self._check_no_rows()

    def _make_splittable(self, net: torch.nn.Sequential) -> None:
        """Change or replace what would make results depend on how a batch is split."""
        for module in net.modules():
            if getattr(module, "inplace", False):
                module.inplace = False  # type: ignore[assignment]  # a layer never overwrites x
        take_floats(net)
        forget_masks(net)  # if these are the modules of another model
        if self.sync_batch_norm:
            synchronise(net, self.sync_batch_norm)

    def _find_unused(self) -> None:
        """Tell all layers which parameters may lack a gradient, as the trials of each have shown.

        Below a layer that may cut the gradient off, these are all. A parameter that several layers
        share is unused if all of them are below such a cut or do not use it.
        """
        layers: list[TorchLayer] = self.layers  # type: ignore[assignment]
        used: set[str] = set()
        for layer, later in reversed([(layer, layers[i + 1 :]) for i, layer in enumerate(layers)]):
            layer.below_cut = any(each.may_cut for each in later)
            if not any(each.cuts for each in later):
                used |= {*layer.all_names} - {*layer.unused}
        may_lack = {
            name
            for layer in layers
            for name in (layer.all_names if layer.below_cut else layer.may_lack_gradient)
        }
        for layer in (*layers, self._whole):
            layer.note_gradients(never={*layer.all_names} - used, sometimes=may_lack)

    def _check_no_rows(self) -> None:
        """Check that every layer takes 0 rows: a rank may have none, and must compute all the same.

        Raises:
            ValueError: a layer cannot.
        """
        for i, layer in enumerate(self.layers):
            check_no_rows(layer, self.row_shape(i))  # type: ignore[arg-type]

    @property
    def clock(self) -> Any:
        """The user's counter of steps for dropout; None if the strategy's optimizer counts."""
        return self.dropout_clock.fixed

    @clock.setter
    def clock(self, clock: Any) -> None:
        self.dropout_clock.fixed = clock

    @property
    def unused(self) -> tuple[str, ...]:
        """Names of the parameters that the loss did not depend on when the modules were tried.

        As in torch, no optimizer moves them, not by weight decay or momentum either.
        """
        return self._whole.unused

    @property
    def module(self) -> torch.nn.Sequential:
        """The modules being trained. Do not move or convert them.

        On the device "cpu" their parameters lie in `params`, so a change of either is a change of
        both. On other devices they are a copy of `params` as it is now, and a change is lost.
        """
        self._whole.refresh()
        return self._whole.module  # type: ignore[return-value]

    def fetch(self) -> None:
        """Take over into `params` what was changed in `module`, on other devices than "cpu" too."""
        self._whole.fetch()

    def converted(self, dtype: str, device: str | None = None) -> "TorchModel":
        """A copy in the dtype "float32" or "float64" that shares no memory with this model.

        It has the same class, the same parameters, rounded, and the same arguments, with three
        exceptions: it has no clock, no `compute` in float64, and another `device` if one is given.
        What a derived class keeps besides is copied as it is.

        Raises:
            ValueError: a function that is no method was assigned to the model in the place of a
                method, so that the copy would compute with the parameters of this model.
        """
        compute = self.compute if dtype == "float32" else None
        own = str(self._whole.device), str(self.dtype), self.compute
        device = device or own[0]
        # Of equal modules in the same dtype and place, a new trial would find the same.
        tried: Any = self.layers if (device, dtype, compute) == own else ()
        twin = TorchModel(
            self.module,
            device,
            dtype,
            self.seed,
            self.input_shape,
            self.params.astype(dtype),
            sync_batch_norm=self.sync_batch_norm,
            compute=compute,
            loss=self.loss,
            _tried=tried,
        )
        for ours, theirs in zip((*self.layers, self._whole), (*twin.layers, twin._whole)):
            theirs.rename(ours.all_names)  # type: ignore[attr-defined]
        for name in replaced_in_object(self):
            if getattr(vars(self)[name], "__self__", None) is not self:
                raise ValueError(
                    f"{name} of the model is a function that was assigned to it: a copy would "
                    "compute with the parameters of the original; expected a class derived from "
                    "TorchModel with such a method, or types.MethodType(function, model)"
                )
        known = {id(self): twin, **self._copies_of_layers(twin)}
        added = {name: own for name, own in vars(self).items() if name not in vars(twin)}
        vars(twin).update(copy.deepcopy(added, known))
        twin.__class__ = type(self)
        twin.bind(twin.params, twin.grads)  # as the derived class does it
        return twin

    def _copies_of_layers(self, twin: "TorchModel") -> dict[int, Any]:
        return {id(ours): theirs for ours, theirs in zip(self.layers, twin.layers)}

    def __deepcopy__(self, memo: dict[int, Any]) -> "TorchModel":
        twin = self.converted(str(self.dtype))
        # A stage that is copied along with its model gets the layers of the copied model.
        memo.update(self._copies_of_layers(twin))
        return twin

    def bind(self, params: NDArray, grads: NDArray) -> None:
        super().bind(params, grads)
        self._whole.bind(params, grads)

    def forward(self, x: NDArray) -> tuple[NDArray, list[Any]]:
        """Like `Model.forward`, with one context for all layers."""
        y, ctx = self._whole.forward(as_rows(x, self.input_shape, self.dtype, self.kinds))
        return y, [ctx]

    def backward(self, dy, contexts, need_dx=False, add=False, ready=None):
        """Like `Model.backward`; with the one context of `forward`, for all layers at once."""
        if len(contexts) == len(self.layers):
            return super().backward(dy, contexts, need_dx, add, ready)
        dx = self._whole.backward(dy, contexts[0], need_dx, add)
        for i in reversed(range(len(self.layers))):
            if ready:
                ready(i)
        return dx

    def gradients(
        self, batch: Batch, add: bool = False, ready: Callable[[int], None] | None = None
    ) -> float:
        with rows_of(batch):
            # Layer by layer only if `ready` has to be called for each.
            logits, contexts = (super().forward if ready else self.forward)(batch.x)
        loss, dy = self.loss(logits, batch.y, batch.count(self.loss), batch.weights)
        self.backward(dy, contexts, add=add, ready=ready)
        return float(loss)

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Like `Model._evaluating`: modules are in evaluation mode, and torch keeps no graph."""
        module = self._whole.module.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            module.train()


@cache
def _say_that_lists_are_drawn() -> None:
    """Log, once in a process, what becomes of the parameters of modules in a list."""
    logging.getLogger(__name__).warning(
        "TorchModel([...]) draws the parameters of modules in a list anew, by seed 0: give seed=0 "
        "to say so, or seed=None to keep their values"
    )


def devices() -> list[str]:
    """Names of the devices that torch can compute on here."""
    cuda = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    return ["cpu", *cuda, *["mps"] * torch.backends.mps.is_available()]


def _device(name: str | torch.device) -> torch.device:
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"device={name!r}: expected one of {', '.join(devices())}") from error
    if not any(str(device) in (there, there.partition(":")[0]) for there in devices()):
        raise ValueError(f"device={name!r} is not there: torch finds {', '.join(devices())}")
    return device


def _precision(compute: str | None, dtype: str) -> torch.dtype | None:
    if compute not in (None, "bfloat16") or (compute and dtype != "float32"):
        raise ValueError(
            f'compute={compute!r} with parameters of {dtype}: expected None, or "bfloat16" '
            "with parameters of float32"
        )
    return torch.bfloat16 if compute else None


def _trainable(net: torch.nn.Sequential, dtype: str) -> NDArray:
    """The flat vector of the parameters that are not frozen."""
    values = [w.detach().numpy().ravel() for w in net.parameters() if w.requires_grad]
    return np.concatenate([np.empty(0, dtype), *values])


def _kind(module: torch.nn.Module) -> type[TorchLayer]:
    """The class of layer for a module that shares no parameters with others."""
    if splittable(module):
        return TorchLinear
    return TorchBlock if divisible(module) else TorchLayer
