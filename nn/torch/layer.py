"""A torch module as a layer: its weights lie in the flat vector that `bind` is given."""

import copy
import logging
from collections.abc import Collection, Sequence
from contextlib import nullcontext
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.modules.batchnorm import _BatchNorm

from nn.inputs import count_rows, has_several, map_inputs, shape_of_rows
from nn.layers import Layer, Shape
from nn.layers.dropout import row_ids
from nn.optim.vector import lacks_gradient
from nn.parameters import NO_GRADIENT
from nn.torch.batch_norm import SyncBatchNorm
from nn.torch.dropout import draws_masks, masks_again
from nn.torch.modules import call, hooked
from nn.torch.row_check import kinds_taken, output_of_a_row, run_watched

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


def in_host_memory(device: torch.device) -> bool:
    """Whether modules on this device can compute in the memory of numpy arrays."""
    return device.type == "cpu"


class TorchLayer(Layer):
    """A torch module as a layer: numpy arrays in and out, gradients in the views of `bind`.

    Gradients come from `torch.autograd.grad`, never through `.grad`: a `zero_grad()` that sets
    `.grad` to None would silently cut off a view. What the output does not depend on has the
    gradient `nn.parameters.NO_GRADIENT`, parameters and input. Parameters that require no gradient
    are frozen: they are no part of the vectors.

    The module is set to training mode, in which it computes until it is switched to evaluation
    mode. A module that writes into its input is given a copy of it.

    On the device "cpu" the module computes in the very memory that `bind` is given. On other
    devices it keeps a copy of its parameters, refreshed before each forward: on every device,
    strategies exchange and optimizers update vectors in host memory.

    Args:
        module: takes one tensor (rows, ...) and returns one with equally many rows for each row
            given: one, or one per token in a language model. Each row is computed by itself;
            batch norm in training is the exception. The module is moved to `device` and kept.
        device: where the module computes.
        compute: a lower precision in which autocast computes, e.g. torch.bfloat16. Parameters,
            gradients, inputs and outputs keep their dtype.
        names: names of the module's parameters that are unique in the model, in the order of
            `module.parameters()`. Layers whose parameters have the same name share them. By default
            the names that the module has for them, and nothing is shared.
    """

    takes_several = True

    def __init__(
        self,
        module: torch.nn.Module,
        device: torch.device | str = "cpu",
        compute: torch.dtype | None = None,
        names: Sequence[str] | None = None,
    ):
        self.device, self.compute = torch.device(device), compute
        self.module = module.to(self.device).train()
        self._weights = [weight for weight in module.parameters() if weight.requires_grad]
        self._unique = names is not None
        self._names: tuple[str, ...] = ()
        self._adds: tuple[str, ...] = ()
        self._views: dict[str, tuple[NDArray, NDArray]] = {}
        self.unused: tuple[str, ...] = ()
        """Names of the parameters that no output depended on when the model was tried."""
        self.cuts = self.may_cut = False
        """Whether none, or not all, of these outputs depended on the input."""
        self.below_cut = False
        """Whether a later layer may cut off the gradient, so that there is none to pass on."""
        self.rename([name for name, _ in module.named_parameters()] if names is None else names)
        self.share((), ())
        self.norms: list[Any] = [m for m in module.modules() if isinstance(m, _BatchNorm)]
        for norm in self.norms:
            if not hasattr(norm, "seen"):
                norm.seen = np.zeros(1)  # rows since the last gather
        self._collective = any(isinstance(m, SyncBatchNorm) for m in module.modules())
        self._watched = False
        self.drops = draws_masks(module)
        """Whether the module was seen to drop units (dropout) when it was tried."""
        self.kinds_of: dict[Any, Any] = {}
        """Shape of an input row -> the kinds of numbers that were found to work."""
        self.row_shapes: dict[Any, Shape] = {}
        """Shape of an input row -> shape of an output row, for rows that were checked."""
        self._host_weights: list[torch.Tensor] = []
        self._host_grads: list[torch.Tensor] = []

    def __copy__(self):
        """A copy with equal parameters that shares what is frozen, and running statistics."""
        frozen = [weight for weight in self.module.parameters() if not weight.requires_grad]
        shared = [*frozen, *self.module.buffers(), *(norm.seen for norm in self.norms)]
        module = copy.deepcopy(self.module, {id(each): each for each in shared})
        names = self.all_names if self._unique else None
        twin = type(self)(module, self.device, self.compute, names)
        twin.share(self.borrowed, self._adds)
        twin.know(self)
        # What a derived class keeps besides.
        vars(twin).update({name: own for name, own in vars(self).items() if name not in vars(twin)})
        return twin

    def know(self, like: "TorchLayer") -> None:
        """Take over what was found when `like` was tried, a layer of equal modules and dtype."""
        self.row_shapes, self.rows_each = like.row_shapes, like.rows_each
        self.kinds_of, self.drops = like.kinds_of, like.drops
        named = list(zip(like.all_names, self.all_names))
        self.note_gradients(
            never=[name for other, name in named if other in like.unused],
            sometimes=[name for other, name in named if other in like.may_lack_gradient],
            like=like,
        )

    def rename(self, names: Sequence[str]) -> None:
        """Give the module's parameters other names, in the order of `module.parameters()`."""
        self.all_names = tuple(names)
        named = zip(self.all_names, self.module.parameters(), strict=True)
        before = self._names
        self._names = tuple(name for name, weight in named if weight.requires_grad)
        if self._unique:
            self.shareable = self._names
        new = dict(zip(before, self._names))
        self.borrowed, self._adds = (
            tuple(new[name] for name in some) for some in (self.borrowed, self._adds)
        )
        self._views = {new[name]: view for name, view in self._views.items()}
        self.note_gradients(
            never=[new[name] for name in self.unused],
            sometimes=[new[name] for name in self.may_lack_gradient],
        )

    def note_gradients(
        self,
        *,
        never: Collection[str],
        sometimes: Collection[str],
        like: "TorchLayer | None" = None,
    ) -> None:
        """Set which parameters had no gradient when tried, and which may have none in a step.

        Names of parameters that the layer does not have are left out.

        Args:
            never: becomes `unused`.
            sometimes: becomes `may_lack_gradient`.
            like: a layer that cuts the gradient off, or has it cut off, where this one does.
        """
        self.unused = tuple(name for name in self._names if name in never)
        self.may_lack_gradient = tuple(name for name in self._names if name in sometimes)
        if like:
            self.cuts, self.may_cut, self.below_cut = like.cuts, like.may_cut, like.below_cut

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name in self._names if name not in self.borrowed)

    def name_in_model(self, i: int, name: str) -> str:
        return name if self._unique else super().name_in_model(i, name)

    @property
    def frozen(self) -> dict[str, Any]:
        return {
            name: weight.detach().numpy() if in_host_memory(self.device) else _OnDevice(weight)
            for name, weight in zip(self.all_names, self.module.parameters())
            if not weight.requires_grad
        }

    def share(self, borrowed: Collection[str], adds: Collection[str]) -> None:
        self.borrowed = tuple(name for name in self._names if name in borrowed)
        self._adds = tuple(name for name in self._names if name in adds)
        self.shapes = tuple(
            tuple(weight.shape)
            for name, weight in zip(self._names, self._weights)
            if name not in borrowed
        )

    @property
    def each_feature_alone(self) -> bool:
        """Whether each output depends on one input only; then ranks may share the features."""
        return type(self.module) in ELEMENTWISE and not hooked(self.module)

    def joined(self, others: Sequence["TorchLayer"], shape: Shape) -> "TorchLayer":
        """This layer, given rows of `shape`, and the layers that follow it, as one layer.

        Torch then builds one graph, which costs less than one for each layer, and sums the
        gradients of parameters that the layers share. The modules of these layers are used.
        """
        layers = (self, *others)
        names = None
        if self._unique:
            names = list(dict.fromkeys(name for layer in layers for name in layer.all_names))
            shared: dict[str, torch.nn.Parameter] = {}
            for layer in layers:
                _share_parameters(layer, shared)
        net = torch.nn.Sequential(*(layer.module for layer in layers))
        whole = TorchLayer(net, self.device, self.compute, names)
        out = shape
        for layer in layers:
            out = layer.row_shape(out)
        whole.note_gradients(
            never=[name for layer in layers for name in layer.unused],
            sometimes=[name for layer in layers for name in layer.may_lack_gradient],
            like=layers[-1],
        )
        whole.may_cut = any(layer.may_cut for layer in layers)
        whole.kinds_of[shape] = self.kinds(shape)
        whole.row_shapes[shape] = out  # if each layer keeps rows apart, all do: no new check
        return whole

    def bind(self, params: NDArray, grads: NDArray) -> None:
        super().bind(params, grads)
        self._views = dict(zip(self.names, zip(self.params, self.grads)))
        self._use_views()

    def borrow(self, views: Sequence[tuple[NDArray, NDArray]]) -> None:
        self._views |= zip(self.borrowed, views)
        self._use_views()

    def _use_views(self) -> None:
        """Compute in the memory that the layer was given, as soon as it has all of it."""
        if len(self._views) < len(self._names):
            return
        views = [self._views[name] for name in self._names]
        self._host_weights = [torch.from_numpy(param) for param, _ in views]
        self._host_grads = [torch.from_numpy(grad) for _, grad in views]
        if in_host_memory(self.device):
            for weight, view in zip(self._weights, self._host_weights):
                weight.data = view

    def row_shape(self, shape):
        """Shape of one output row for one input row of `shape`, found by `output_of_a_row`.

        Raises:
            ValueError: the module fails on such rows, or does not compute each row by itself.
        """
        if shape not in self.row_shapes:
            if self.each_feature_alone and not has_several(shape):
                self.row_shapes[shape] = shape
            else:
                self.row_shapes[shape], self.rows_each = output_of_a_row(self, shape)
        return self.row_shapes[shape]

    def kinds(self, shape):
        if shape not in self.kinds_of:
            self.kinds_of[shape] = kinds_taken(self, shape)
        return self.kinds_of[shape]

    @property
    def dtype(self) -> str:
        """Name of the dtype of the parameters, or else of the buffers; without any, "float32"."""
        for tensor in (*self.module.parameters(), *self.module.buffers()):
            if tensor.is_floating_point():
                return str(tensor.dtype).removeprefix("torch.")
        return "float32"

    def enter(self, x: Any) -> Any:
        """Rows x as a contiguous tensor on the device; of several inputs a tuple or dict."""
        if not isinstance(x, np.ndarray):
            return map_inputs(self.enter, x)
        # Torch has no read-only tensors and no negative strides.
        if not x.flags.writeable or min(x.strides, default=0) < 0:
            x = x.copy()
        return torch.from_numpy(x).contiguous().to(self.device)

    def refresh(self) -> None:
        """Copy the parameters as they are now to a device that computes on a copy of them."""
        if not in_host_memory(self.device):
            for weight, value in zip(self._weights, self._host_weights):
                # Written through `data`, because the graphs of other micro-batches may still need
                # the weights. They may have them: the values change only between steps.
                weight.data.copy_(value)

    def fetch(self) -> None:
        """Take over parameters that were changed in the module, from devices with a copy too."""
        for weight, value in zip(self._weights, self._host_weights):
            value.copy_(weight.detach())

    def run(self, x: torch.Tensor) -> Any:
        """Output of the module for x, computed on the parameters as they are now."""
        self.refresh()
        with self.autocast(self.compute):
            return call(self.module, x)

    def autocast(self, compute: torch.dtype | None) -> Any:
        """A context that computes in the lower precision `compute`; without one, an empty one."""
        return torch.autocast(self.device.type, compute) if compute else nullcontext()

    def forward(self, x):
        rows = count_rows(x)
        alone = isinstance(x, np.ndarray) and x.dtype.kind == "f"  # has a gradient
        out = x.dtype.name if alone else self.dtype
        if not rows and not self._collective:  # some modules cannot take 0 rows
            return np.empty((0, *self.row_shape(shape_of_rows(x))), out), (x, None, None)
        leaf = self.enter(x)
        if alone:
            leaf.requires_grad_()
        drawn_for = row_ids() if self.drops and self.module.training else None
        if self.module.training and not self._watched:
            y, self._watched = run_watched(self, leaf)
        else:
            y = self.run(leaf)
        if self.module.training:
            for norm in self.norms:
                norm.seen += rows
        return y.detach().to("cpu", getattr(torch, out)).numpy(), (leaf, y, drawn_for)

    def backward(self, dy, ctx, need_dx=True, add=False):
        leaf, y, drawn_for = ctx
        need_dx = need_dx and isinstance(leaf, torch.Tensor | np.ndarray)
        need_dx = need_dx and leaf.dtype not in (torch.int64, np.int64, torch.bool, np.bool_)
        inputs = [leaf] * need_dx
        wanted = inputs + self._weights
        found: Sequence[torch.Tensor | None] = [None] * len(wanted)
        is_cut_off = self.below_cut and lacks_gradient(dy)
        if wanted and y is not None and y.requires_grad and not is_cut_off:
            start = torch.from_numpy(dy).contiguous().to(y)
            with masks_again(drawn_for):
                found = torch.autograd.grad(y, wanted, start, allow_unused=True)
        for name, view, gradient in zip(self._names, self._host_grads, found[len(inputs) :]):
            may_lack = name in self.may_lack_gradient
            if lacks := gradient is None:
                gradient = view.new_full((), NO_GRADIENT if may_lack else 0.0)
                if y is not None and not may_lack:
                    _say_zero(name)
            if add or name in self._adds:
                view.add_(gradient.to("cpu"))
            else:
                view.copy_(gradient)
            if may_lack and not lacks:
                view.add_(0.0)
        if not need_dx:
            return None
        dx = found[0]
        may_lack = self.may_cut or self.below_cut
        if dx is None:
            if y is not None and not may_lack:
                _say_zero(f"what lies below {self}")
            return np.full(leaf.shape, NO_GRADIENT, dy.dtype)
        return (dx + 0.0 if may_lack else dx).contiguous().cpu().numpy()

    def __repr__(self) -> str:
        text = repr(self.module)
        return text if "\n" not in text else f"{type(self.module).__name__}(...)"


def _share_parameters(layer: TorchLayer, shared: dict[str, torch.nn.Parameter]) -> None:
    """Let a layer's module use the parameters in `shared` in place of its own of the same name."""
    own = dict(zip(map(id, layer.module.parameters()), layer.all_names))
    for module in layer.module.modules():
        for place, weight in list(module._parameters.items()):
            if weight is not None and id(weight) in own:
                setattr(module, place, shared.setdefault(own[id(weight)], weight))


@cache
def _say_zero(name: str) -> None:
    """Log, once in a process, that what had a gradient when it was tried has none in a step."""
    logging.getLogger(__name__).warning(
        "%s got no gradient in a step, though it did whenever the model was tried: here it counts "
        "as 0, so weight decay and momentum still move the parameters; torch would not move them",
        name,
    )


class _OnDevice:
    """A frozen parameter on a device, which numpy can read and which can be written to."""

    def __init__(self, weight: torch.nn.Parameter):
        self.weight, self.shape = weight.detach(), tuple(weight.shape)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray:
        return np.array(self.weight.cpu().numpy(), dtype)

    def __setitem__(self, key: Any, value: NDArray) -> None:
        self.weight[key] = torch.from_numpy(np.asarray(value)).to(self.weight)
