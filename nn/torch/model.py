"""Any torch module as a model over two flat vectors, so that every strategy trains it."""

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nn.arguments import as_int
from nn.batch import Batch
from nn.layers import Shape
from nn.layers.dropout import rows_of
from nn.loss import cross_entropy
from nn.model import DTYPES, Model, as_rows
from nn.torch.batch_norm import RunningStatistics, synchronise
from nn.torch.dropout import Clock, replace_dropout
from nn.torch.embedding import take_floats
from nn.torch.hooks import hooked
from nn.torch.layer import TorchLayer
from nn.torch.linear import TorchLinear, splittable

Modules = torch.nn.Module | Sequence[torch.nn.Module]


class TorchModel(Model):
    """`nn.Model` whose layers are torch modules.

    Each child of a `torch.nn.Sequential` is one layer (Sequentials inside are opened too), and so
    is each module of a list. Any other module is a single layer: data parallelism does not mind,
    but it cannot be cut into the stages of a pipeline.

    Args:
        modules: a Sequential, a list of modules, another module, or a function without arguments
            that builds one of these. Modules are copied, and the copy is trained: see `module`.
        device: where torch computes: "cpu", "cuda" (or "cuda:1", ...), "mps". The flat vectors
            are numpy arrays in host memory on every device, and each call returns when its
            results are there: whoever times it has waited for the device.
        dtype: "float32" or "float64"; by default that of the module's parameters.
        seed: of the initial parameters, equal on every rank. A function is called with torch's
            generator seeded by it. Of modules that are given, Linear and convolution weights are
            drawn as `nn` draws them (normal, standard deviation sqrt(2 / inputs), for a Linear
            that no ReLU follows sqrt(1 / inputs); biases 0), so that numpy and torch versions of
            one net begin alike; other modules by their `reset_parameters`, with torch's generator
            seeded. None keeps the parameters that the modules have.
        input_shape: of one row, e.g. (1, 28, 28); a Linear first layer knows its own. Batches may
            hold the rows flattened.
        params: values to begin with instead of drawn ones, a flat vector; copied.
        clock: what counts the steps (in `steps`), by default the optimizer of the strategy that
            takes them. Needed for dropout, whose masks are a function of seed, step, row and unit:
            the same on however many ranks and micro-batches.
        sync_batch_norm: a communicator, that of a data-parallel strategy, over whose ranks batch
            norm takes mean and variance: the same as over the whole batch in one process. By
            default each rank (and micro-batch) takes its own; see also `statistics`.
        compute: "bfloat16" computes in mixed precision (torch.autocast): parameters, gradients
            and what is sent stay in `dtype`, which must be float32.

    Raises:
        TypeError: `modules` is none of these.
        ValueError: what cannot be wrapped, and why: weights shared between layers, parameters of
            another dtype, frozen or without a shape yet, a module that mixes rows; a device that is
            not there; and as `nn.Model`.
    """

    def __init__(
        self,
        modules: Modules | Callable[[], Modules],
        device: str = "cpu",
        dtype: str | None = None,
        seed: int | None = 0,
        input_shape: Shape | None = None,
        params: NDArray | None = None,
        clock: Any = None,
        sync_batch_norm: Any = None,
        compute: str | None = None,
    ):
        if seed is not None:
            seed = as_int("seed", seed, 0)
        where = _device(device)
        layers = _layers(modules, seed)
        dtype = _dtype(layers, dtype)
        if compute not in (None, "bfloat16") or (compute and dtype != "float32"):
            raise ValueError(
                f'compute={compute!r} with parameters of {dtype}: expected None, or "bfloat16" '
                "with parameters of float32"
            )
        net = torch.nn.Sequential(*layers).to("cpu", getattr(torch, dtype))
        _check(net)
        for module in net.modules():
            if getattr(module, "inplace", False):
                module.inplace = False  # type: ignore[assignment]  # a layer never overwrites x
        if params is None:
            if seed is not None and (not callable(modules) or isinstance(modules, torch.nn.Module)):
                _draw(net, seed)
            values = [weight.detach().numpy().ravel() for weight in net.parameters()]
            params = np.concatenate([np.empty(0, dtype), *values])
        self.seed, self.compute = seed, compute
        self.sync_batch_norm = sync_batch_norm
        self.dropout_clock = counted = Clock(clock)
        """Where strategies say who counts the steps; see `clock`."""
        take_floats(net)
        replace_dropout(net, seed or 0, lambda: counted.step())  # a method would be copied
        if sync_batch_norm:
            synchronise(net, sync_batch_norm)
        precision = torch.bfloat16 if compute else None
        self._whole = TorchLayer(net, where, precision)
        """All layers as one: torch then builds one graph, which costs less than one a layer."""
        self.statistics = RunningStatistics(net)
        """What batch norm keeps: of this rank's rows, until a strategy's `weights` or `state`
        gathers those of all ranks."""
        wrapped = [
            (TorchLinear if splittable(layer) else TorchLayer)(layer, where, precision)
            for layer in net
        ]
        super().__init__(
            wrapped,
            dtype,
            input_shape=_input_shape(net) if input_shape is None else input_shape,
            params=params,
        )
        # What each layer was found to keep apart, all do: they are not tried again as one.
        self._whole.row_shapes[self.input_shape] = self.row_shape(len(self.layers))
        # A rank may be left without rows, and has to take part all the same.
        for i, layer in enumerate(wrapped if getattr(sync_batch_norm, "size", 1) > 1 else ()):
            layer.try_no_rows(self.row_shape(i))

    @property
    def clock(self) -> Any:
        """What counts the steps for dropout, in `steps`; None for the strategy that takes them."""
        return self.dropout_clock.fixed

    @clock.setter
    def clock(self, clock: Any) -> None:
        self.dropout_clock.fixed = clock

    @property
    def module(self) -> torch.nn.Sequential:
        """The modules being trained. Do not move or convert them.

        On the device "cpu" their parameters are `params`, in both directions. On others they are a
        copy of it, as it is now: what is written there is lost.
        """
        self._whole.refresh()
        return self._whole.module  # type: ignore[return-value]

    def converted(self, dtype: str, device: str | None = None) -> "TorchModel":
        """A copy in another dtype, "float32" or "float64", that has nothing in common with this.

        It has the same parameters, rounded, and is made with the same arguments, but for the
        clock, which a strategy sets, for `compute` in float64, and for `device` if one is given.
        """
        return TorchModel(
            self.module,
            device or str(self._whole.device),
            dtype,
            self.seed,
            self.input_shape,
            self.params.astype(dtype),
            sync_batch_norm=self.sync_batch_norm,
            compute=self.compute if dtype == "float32" else None,
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> "TorchModel":
        twin = self.converted(str(self.dtype))
        # Of a stage that is copied too the layers are those of the copy.
        memo.update((id(ours), theirs) for ours, theirs in zip(self.layers, twin.layers))
        return twin

    def bind(self, params: NDArray, grads: NDArray) -> None:
        super().bind(params, grads)
        self._whole.bind(params, grads)

    def forward(self, x: NDArray) -> tuple[NDArray, list[Any]]:
        """As `nn.Model.forward`, but that all layers have one context."""
        y, ctx = self._whole.forward(as_rows(x, self.input_shape, self.dtype))
        return y, [ctx]

    def backward(
        self,
        dy: NDArray,
        contexts: list[Any],
        need_dx: bool = False,
        add: bool = False,
        ready: Callable[[int], None] | None = None,
    ) -> NDArray | None:
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
            # Layer by layer only for who wants to hear of each.
            logits, contexts = (super().forward if ready else self.forward)(batch.x)
        loss, dlogits = cross_entropy(logits, batch.y, batch.global_count)
        self.backward(dlogits, contexts, add=add, ready=ready)
        return float(loss)

    def predict(self, x: NDArray, rows: int = 1024) -> NDArray:
        """As `nn.Model.predict`, with the modules in evaluation mode."""
        module = self._whole.module.eval()
        try:
            with torch.no_grad():
                return super().predict(x, rows)
        finally:
            module.train()


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


@contextmanager
def _seeded(seed: int | None) -> Iterator[None]:
    """Torch's generator of the CPU begins at `seed`, and is as before afterwards."""
    with torch.random.fork_rng(devices=[]):
        if seed is not None:
            torch.random.default_generator.manual_seed(seed)
        yield


def _layers(modules: Any, seed: int | None) -> list[torch.nn.Module]:
    """Copies of the modules that are layers, of whatever the user gave."""
    if not isinstance(modules, torch.nn.Module) and callable(modules):
        with _seeded(seed):
            modules = modules()
    given = [modules] if isinstance(modules, torch.nn.Module) else modules
    if not isinstance(given, (list, tuple)) or not all(
        isinstance(module, torch.nn.Module) for module in given
    ):
        raise TypeError(
            f"modules is {type(given).__name__}: expected a torch.nn.Sequential or other module, "
            "a list of modules, or a function that builds one of these"
        )
    for module in given:
        for name, tensor in _tensors(module):
            if torch.nn.parameter.is_lazy(tensor):
                raise ValueError(f"{name} has no shape yet: call the lazy module on rows first")
    # Copied at once, so that what they share stays shared and is found.
    try:
        layers = list(_opened(copy.deepcopy(list(given))))
    except RuntimeError as error:  # parameters that a hook computes, as old weight norm does
        raise ValueError(
            f"modules that cannot be copied: {error}; expected those of "
            "torch.nn.utils.parametrizations in the place of torch.nn.utils.weight_norm"
        ) from error
    for i, layer in enumerate(layers):
        if layer in layers[:i] and not any(True for _ in _tensors(layer)):
            layers[i] = copy.deepcopy(layer)  # what stands twice may drop other units there
    if not layers:
        raise ValueError("a model of no layers: expected at least one module")
    return layers


def _opened(modules: Iterable[torch.nn.Module]) -> Iterator[torch.nn.Module]:
    for module in modules:
        plain = type(module).forward is torch.nn.Sequential.forward and not hooked(module)
        if isinstance(module, torch.nn.Sequential) and plain:
            yield from _opened(module)  # not its children(), which leave out repeats
        else:
            yield module


def _tensors(layer: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """What a module holds, by name: parameters, then buffers."""
    yield from layer.named_parameters()
    yield from layer.named_buffers()


def _dtype(layers: Sequence[torch.nn.Module], dtype: Any) -> str:
    kinds = {
        str(weight.dtype).removeprefix("torch.")
        for layer in layers
        for weight in layer.parameters()
    }
    if dtype is not None:
        name = str(dtype).removeprefix("torch.")
        if name not in DTYPES:
            raise ValueError(f"dtype={dtype!r}: expected one of {', '.join(DTYPES)}")
        return name
    if len(kinds) > 1 or not kinds <= set(DTYPES):
        raise ValueError(
            f"parameters are {', '.join(sorted(kinds))}: expected all {' or all '.join(DTYPES)}; "
            "dtype=... converts them"
        )
    return kinds.pop() if kinds else "float32"


def _check(net: torch.nn.Sequential) -> None:
    """Refuse what flat vectors cannot hold."""
    owners: dict[int, str] = {}
    for i, layer in enumerate(net):
        for name, tensor in _tensors(layer):
            here = f"{name} of layer {i}"
            if id(tensor) in owners:
                raise ValueError(
                    f"{here} is {owners[id(tensor)]}: layers share no weights (tied ones would "
                    "have to be summed across the stages of a pipeline); make them one module"
                )
            owners[id(tensor)] = here
        for name, weight in layer.named_parameters():
            if not weight.requires_grad:
                raise ValueError(
                    f"{name} of layer {i} does not require a gradient: weight decay would move it "
                    "all the same; make it a buffer"
                )


def _draw(net: torch.nn.Sequential, seed: int) -> None:
    """New initial parameters; see `TorchModel`."""
    rng = np.random.default_rng(seed)
    modules = [module for _, module in net.named_modules(remove_duplicate=False)]
    leaves = [module for module in modules if not any(module.children())]
    before_relu = {id(a) for a, b in pairwise(leaves) if isinstance(b, torch.nn.ReLU)}
    kinds = (torch.nn.Linear, torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)
    with _seeded(seed), torch.no_grad():
        for module in modules:
            own = dict(module.named_parameters(recurse=False))
            reset = getattr(module, "reset_parameters", getattr(module, "_reset_parameters", None))
            if isinstance(module, kinds) and "weight" in own:
                weight = own["weight"]
                inputs = max(weight[:1].numel(), 1)
                if isinstance(module, torch.nn.Linear):  # rounded as `nn` does
                    std = (math.sqrt(2) if id(module) in before_relu else 1.0) / math.sqrt(inputs)
                else:
                    std = math.sqrt(2 / inputs)
                weight.copy_(torch.from_numpy(rng.normal(0, std, tuple(weight.shape))))
                if "bias" in own:
                    own["bias"].zero_()
            elif reset:
                reset()
            elif own:
                raise ValueError(
                    f"{type(module).__name__} has no reset_parameters() to draw its parameters "
                    "anew: give a function that builds the module instead, or seed=None to keep "
                    "their values"
                )


def _input_shape(net: torch.nn.Sequential) -> Shape | None:
    """Of one row, where the first layer tells."""
    first = next((layer for layer in net if not isinstance(layer, torch.nn.Flatten)), None)
    return (first.in_features,) if isinstance(first, torch.nn.Linear) else None
