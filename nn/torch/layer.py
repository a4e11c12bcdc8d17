"""A torch module behind the contract of a layer: its weights lie in somebody else's vector."""

import copy
import math
import pickle
import random
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.modules.batchnorm import _BatchNorm

from nn.layers import Layer, Shape
from nn.torch.batch_norm import SyncBatchNorm
from nn.torch.dropout import Dropout
from nn.torch.hooks import hooked

ELEMENTWISE = (
    torch.nn.ReLU,
    torch.nn.LeakyReLU,
    torch.nn.ELU,
    torch.nn.GELU,
    torch.nn.SiLU,
    torch.nn.Sigmoid,
    torch.nn.Tanh,
    torch.nn.Identity,
)


def _two_rows(shape: Shape, dtype: str) -> Iterator[NDArray]:
    """Two that differ: of normal numbers, 0 for some; and, for who takes words alone, 0 and 1."""
    rng = np.random.default_rng(0)
    row, other = rng.standard_normal((2, *shape))
    yield np.stack([row, np.maximum(other, 0)]).astype(dtype)
    row = rng.integers(0, 2, shape)
    yield np.stack([row, 1 - row]).astype(dtype)


def _copy_rows(module: torch.nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    rows, *others = inputs
    return rows.clone(), *others


def _for_trial(module: torch.nn.Module) -> torch.nn.Module:
    """A copy whose parameters are not (nearly) 0, which would hide what they are multiplied with.

    So begin the gates of blocks (Bachlechner et al., "ReZero is all you need", 2020), and the last
    layers of others.
    """
    module = copy.deepcopy(module)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in module.parameters():
            if (weight.abs() < 1e-3).all():
                # A gate has to be open, and a bias must not outweigh the rest: both are vectors.
                scale = max(math.prod(weight.shape[1:]), 1) ** -0.5 if weight.ndim > 1 else 0.1
                weight.copy_(scale * torch.randn(weight.shape, generator=generator))
    return module


def _generators(device: torch.device) -> dict[str, Any]:
    """What a module may draw random numbers from, as it is now."""
    states = {
        "python's": random.getstate(),
        # As bytes, which compare, whatever kind of generator it is.
        "numpy's": pickle.dumps(np.random.get_state(legacy=False)),  # noqa: NPY002
        "torch's": torch.get_rng_state().numpy().tobytes(),
    }
    if device.type == "cuda":
        states["the device's"] = torch.cuda.get_rng_state(device).numpy().tobytes()
    elif device.type == "mps":
        states["the device's"] = torch.mps.get_rng_state().numpy().tobytes()
    return {f"{whose} random generator": state for whose, state in states.items()}


def in_host_memory(device: torch.device) -> bool:
    """Whether modules on it can compute in the memory of numpy arrays."""
    return device.type == "cpu"


class TorchLayer(Layer):
    """`module` with numpy arrays in and out, and gradients written into the views that it is given.

    Gradients come from `torch.autograd.grad`, never through `.grad`: a `zero_grad()` that sets
    `.grad` to None would silently cut a view off. A parameter or an input that the output does not
    depend on has a gradient of 0.

    Runs in training mode, but where the module is in evaluation mode. A module that writes into its
    input is given a copy of it.

    On the device "cpu" the module computes in the very memory that `bind` is given. On others it
    keeps a copy of its parameters, refreshed before each forward: what strategies exchange and
    optimizers update is in host memory on every device.

    Args:
        module: takes one tensor (rows, ...) and returns one with as many rows, or the same number
            of rows for each (a language model's: one a token). Each row is computed by itself, but
            for batch norm in training. It is moved to `device`, and kept.
        device: where it computes.
        compute: a lower precision to compute in where autocast does so, e.g. torch.bfloat16;
            parameters, gradients, inputs and outputs stay as they are.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        device: torch.device | str = "cpu",
        compute: torch.dtype | None = None,
    ):
        self.device, self.compute = torch.device(device), compute
        self.module = module.to(self.device).train()
        self._weights = list(module.parameters())
        self.shapes = tuple(tuple(weight.shape) for weight in self._weights)
        self.norms: list[Any] = [m for m in module.modules() if isinstance(m, _BatchNorm)]
        for norm in self.norms:
            if not hasattr(norm, "seen"):
                norm.seen = np.zeros(1)  # rows since the last gather
        self._collective = any(isinstance(m, SyncBatchNorm) for m in module.modules())
        self._tried = False
        self.row_shapes: dict[Shape, Shape] = {}
        """Of rows that it was tried on, in and out."""
        self._host_weights: list[torch.Tensor] = []
        self._host_grads: list[torch.Tensor] = []

    def __copy__(self):
        """With the same parameters' values, and the very same running statistics of batch norm."""
        shared = [*self.module.buffers(), *(norm.seen for norm in self.norms)]
        module = copy.deepcopy(self.module, {id(each): each for each in shared})
        twin = type(self)(module, self.device, self.compute)
        twin.row_shapes, twin.rows_each = self.row_shapes, self.rows_each
        return twin

    @property
    def each_feature_alone(self) -> bool:
        """Whether each output depends on one input, so that features may be split over ranks."""
        return type(self.module) in ELEMENTWISE and not hooked(self.module)

    def joined(self, others: Sequence["TorchLayer"], shape: Shape) -> "TorchLayer":
        """This layer, of rows of `shape`, and those that follow as one: torch builds one graph."""
        layers = (self, *others)
        modules = [layer.module for layer in layers]
        whole = TorchLayer(torch.nn.Sequential(*modules), self.device, self.compute)
        out = shape
        for layer in layers:
            out = layer.row_shape(out)
        whole.row_shapes[shape] = out  # what each keeps apart, all do: not to be tried again
        return whole

    def bind(self, params: NDArray, grads: NDArray) -> None:
        views: list[list[NDArray]] = [[], []]
        for vector, parts in zip((params, grads), views):
            at = 0
            for shape in self.shapes:
                size = math.prod(shape)
                parts.append(vector[at : at + size].reshape(shape))
                at += size
        self.params, self.grads = map(tuple, views)
        self._host_weights, self._host_grads = (
            [torch.from_numpy(part) for part in parts] for parts in views
        )
        if in_host_memory(self.device):
            for weight, view in zip(self._weights, self._host_weights):
                weight.data = view

    def row_shape(self, shape):
        """Found by trying the module on two rows, together and each alone.

        Raises:
            ValueError: the module fails on such rows, does not return one tensor with a row, or a
                number of rows (as a language model's logits have), for each, or returns others for
                a row among others than for the row alone.
        """
        if shape not in self.row_shapes:
            self.row_shapes[shape] = shape if self.each_feature_alone else self._try(shape)
        return self.row_shapes[shape]

    def _try(self, shape: Shape) -> Shape:
        """In training and not; without autocast, whose rounding hides much, if that can be."""
        self.refresh()
        module = _for_trial(self.module)  # what it changes stays there
        precisions = [None, self.compute] if self.compute else [None]
        for compute, rows in product(precisions, _two_rows(shape, self._dtype)):
            try:
                with self._autocast(compute):
                    trials = [self._trial(module.train(mode), rows) for mode in (False, True)]
                break
            except Exception as error:
                failed = error
        else:
            raise ValueError(f"{self} cannot take rows of shape {shape}: {failed}") from failed
        for y, alone in trials:
            if not isinstance(y, torch.Tensor) or not y.ndim or not len(y) or len(y) % 2:
                tensor = isinstance(y, torch.Tensor)
                what = f"shape {tuple(y.shape)}" if tensor else type(y).__name__
                raise ValueError(
                    f"{self} makes {what} of two rows: expected one tensor with a row for each, or "
                    "as many rows for either"
                )
            if not all(self._same(a, b, compute) for a, b in zip(alone, y.chunk(2))):
                raise ValueError(
                    f"{self} mixes rows of shape {shape}: of two it makes something else than of "
                    "each alone, so that the result would depend on how a batch is split; expected "
                    "the rows in the first dimension (batch_first=True), and none needed by another"
                )
        self.rows_each = len(y) // 2
        return tuple(y.shape[1:])

    def try_no_rows(self, shape: Shape) -> None:
        """Raises ValueError: the module does not make no rows of no rows of `shape`."""
        expected = (0, *self.row_shape(shape))
        module = _for_trial(self.module).eval()
        try:
            with self._autocast(self.compute):
                made = tuple(self._evaluate(module, np.empty((0, *shape), self._dtype)).shape)
            failed = None if made == expected else f"it makes {made}"
        except Exception as error:
            failed = str(error)
        if failed:
            raise ValueError(
                f"{self} cannot take 0 rows of shape {shape}: {failed}; with sync_batch_norm a "
                "rank without rows computes on too, expected e.g. torch.flatten(x, 1) in the place "
                "of x.view(len(x), -1)"
            )

    def _trial(self, module: torch.nn.Module, rows: NDArray) -> tuple[Any, list[Any]]:
        """What is made of two rows, and of each alone, if they are to be independent.

        They are, but for batch norm in training, which is known, and for what is refused as it
        trains: random numbers, and statistics that are kept of rows.
        """
        for part in module.modules():
            if isinstance(part, (_BatchNorm, Dropout)):
                part.eval()
        before = self._hidden_state(module)
        y = self._evaluate(module, rows)
        if not all(norm.track_running_stats for norm in self.norms):
            return y, []
        alone = [self._evaluate(module, row[None]) for row in rows]
        return y, alone if self._hidden_state(module) == before else []

    def _evaluate(self, module: torch.nn.Module, rows: NDArray) -> Any:
        """Of rows. If it writes into them, the layer's module is given copies from now on."""
        x = self._enter(rows.copy()).requires_grad_(module.training)
        version = x._version
        with torch.set_grad_enabled(module.training):
            y = module(x)
        if x._version > version:
            for each in (module, self.module):
                each.register_forward_pre_hook(_copy_rows)
        return y

    def _same(self, a: torch.Tensor, b: torch.Tensor, compute: torch.dtype | None) -> bool:
        """But for rounding: half of the digits. Values that are not finite prove nothing."""
        if a.shape != b.shape:
            return False
        dtype = getattr(torch, self._dtype)
        a, b = a.detach().to(dtype), b.detach().to(dtype)
        tolerance = torch.finfo(compute or dtype).eps ** 0.5
        return not torch.dist(a, b) > tolerance * b.norm()

    @property
    def _dtype(self) -> str:
        """Of the parameters; rows without any are cast to the model's before they come here."""
        return str(self._weights[0].dtype).removeprefix("torch.") if self._weights else "float32"

    def _enter(self, x: NDArray) -> torch.Tensor:
        """Rows on the device. Torch has no read-only tensors and no negative strides."""
        if not x.flags.writeable or min(x.strides, default=0) < 0:
            x = x.copy()
        return torch.from_numpy(x).contiguous().to(self.device)

    def refresh(self) -> None:
        """Give the module the parameters as they are now, where it computes on a copy of them."""
        if not in_host_memory(self.device):
            for weight, value in zip(self._weights, self._host_weights):
                # `data`, for the graphs of other micro-batches may still need the weights. They
                # can have them: the values change between steps alone.
                weight.data.copy_(value)

    def _run(self, x: torch.Tensor) -> Any:
        self.refresh()
        with self._autocast(self.compute):
            return self.module(x)

    def _autocast(self, compute: torch.dtype | None) -> Any:
        return torch.autocast(self.device.type, compute) if compute else nullcontext()

    def forward(self, x):
        if not len(x) and not self._collective:  # some modules do not take 0 rows
            return np.empty((0, *self.row_shape(x.shape[1:])), x.dtype), (x, None)
        leaf = self._enter(x).requires_grad_()
        if self.module.training:
            y = self._run(leaf) if self._tried else self._run_first(leaf)
            for norm in self.norms:
                norm.seen += len(x)
        else:
            y = self._run(leaf)
        return y.detach().to("cpu", getattr(torch, x.dtype.name)).numpy(), (leaf, y)

    def _run_first(self, x: torch.Tensor) -> Any:
        """Refuse what would make the result depend on how rows are split, once it shows.

        Raises:
            ValueError: the module draws random numbers, keeps statistics of rows, or changes its
                parameters.
        """
        before = self._hidden_state(self.module)
        y = self._run(x)
        after = self._hidden_state(self.module)
        # A buffer may be made at the first call; whether it then stays, the next one shows.
        self._tried = len(x) > 0 and before.keys() == after.keys()
        changed = [name for name in before if after.get(name) != before[name]]
        if changed:
            raise ValueError(
                f"{self} changes {', '.join(changed)} as it computes, which depends on how rows "
                "are split; among such modules torch.nn.Dropout and BatchNorm1d to 3d can be used"
            )
        return y

    def _hidden_state(self, module: torch.nn.Module) -> dict[str, Any]:
        """Random generators, and how often each tensor was written, but batch norm's statistics."""
        norms = [m for m in module.modules() if isinstance(m, _BatchNorm)]
        known = {id(buffer) for norm in norms for buffer in norm.buffers()}
        state: dict[str, Any] = dict(_generators(self.device))
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            if id(tensor) not in known:
                state[name] = id(tensor), tensor._version
        return state

    def backward(self, dy, ctx, need_dx=True, add=False):
        leaf, y = ctx
        inputs = [leaf] * need_dx
        wanted = inputs + self._weights
        found: Sequence[torch.Tensor | None] = [None] * len(wanted)
        if wanted and y is not None and y.requires_grad:
            start = torch.from_numpy(dy).contiguous().to(y)
            found = torch.autograd.grad(y, wanted, start, allow_unused=True)
        for view, gradient in zip(self._host_grads, found[len(inputs) :]):
            if gradient is None:
                gradient = view.new_zeros(())
            if add:
                view.add_(gradient.to("cpu"))
            else:
                view.copy_(gradient)
        if not need_dx:
            return None
        dx = found[0]
        # Zeros where y does not depend on x; None would leave the layers before without a gradient.
        return np.zeros(leaf.shape, dy.dtype) if dx is None else dx.contiguous().cpu().numpy()

    def __repr__(self) -> str:
        text = repr(self.module)
        return text if "\n" not in text else f"{type(self.module).__name__}(...)"
