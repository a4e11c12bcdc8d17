"""A torch module as a layer: its weights lie in the flat vector that `bind` is given."""

import copy
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.modules.batchnorm import _BatchNorm

from nn.layers import Layer, Shape
from nn.torch.batch_norm import SyncBatchNorm
from nn.torch.modules import hooked
from nn.torch.row_check import output_of_a_row, run_watched

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
    `.grad` to None would silently cut off a view. A parameter or an input that the output does not
    depend on has a gradient of 0.

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
        self._watched = False
        self.row_shapes: dict[Shape, Shape] = {}
        """Shape of an input row -> shape of an output row, for rows that were checked."""
        self._host_weights: list[torch.Tensor] = []
        self._host_grads: list[torch.Tensor] = []

    def __copy__(self):
        """A copy with equal parameters that shares the running statistics of batch norm."""
        shared = [*self.module.buffers(), *(norm.seen for norm in self.norms)]
        module = copy.deepcopy(self.module, {id(each): each for each in shared})
        twin = type(self)(module, self.device, self.compute)
        twin.row_shapes, twin.rows_each = self.row_shapes, self.rows_each
        # What a derived class keeps besides.
        vars(twin).update({name: own for name, own in vars(self).items() if name not in vars(twin)})
        return twin

    @property
    def each_feature_alone(self) -> bool:
        """Whether each output depends on one input only; then ranks may share the features."""
        return type(self.module) in ELEMENTWISE and not hooked(self.module)

    def joined(self, others: Sequence["TorchLayer"], shape: Shape) -> "TorchLayer":
        """This layer, given rows of `shape`, and the layers that follow it, as one layer.

        Torch then builds one graph, which costs less than one for each layer.
        """
        layers = (self, *others)
        modules = [layer.module for layer in layers]
        whole = TorchLayer(torch.nn.Sequential(*modules), self.device, self.compute)
        out = shape
        for layer in layers:
            out = layer.row_shape(out)
        whole.row_shapes[shape] = out  # if each layer keeps rows apart, all do: no new check
        return whole

    def bind(self, params: NDArray, grads: NDArray) -> None:
        super().bind(params, grads)
        self._host_weights, self._host_grads = (
            [torch.from_numpy(view) for view in views] for views in (self.params, self.grads)
        )
        if in_host_memory(self.device):
            for weight, view in zip(self._weights, self._host_weights):
                weight.data = view

    def row_shape(self, shape):
        """Shape of one output row for one input row of `shape`, found by `output_of_a_row`.

        Raises:
            ValueError: the module fails on such rows, or does not compute each row by itself.
        """
        if shape not in self.row_shapes:
            if self.each_feature_alone:
                self.row_shapes[shape] = shape
            else:
                self.row_shapes[shape], self.rows_each = output_of_a_row(self, shape)
        return self.row_shapes[shape]

    @property
    def dtype(self) -> str:
        """Name of the parameters' dtype; "float32" for a module without parameters."""
        return str(self._weights[0].dtype).removeprefix("torch.") if self._weights else "float32"

    def enter(self, x: NDArray) -> torch.Tensor:
        """Rows x as a contiguous tensor on the device."""
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

    def run(self, x: torch.Tensor) -> Any:
        """Output of the module for x, computed on the parameters as they are now."""
        self.refresh()
        with self.autocast(self.compute):
            return self.module(x)

    def autocast(self, compute: torch.dtype | None) -> Any:
        """A context that computes in the lower precision `compute`; without one, an empty one."""
        return torch.autocast(self.device.type, compute) if compute else nullcontext()

    def forward(self, x):
        if not len(x) and not self._collective:  # some modules cannot take 0 rows
            return np.empty((0, *self.row_shape(x.shape[1:])), x.dtype), (x, None)
        leaf = self.enter(x).requires_grad_()
        if self.module.training and not self._watched:
            y, self._watched = run_watched(self, leaf)
        else:
            y = self.run(leaf)
        if self.module.training:
            for norm in self.norms:
                norm.seen += len(x)
        return y.detach().to("cpu", getattr(torch, x.dtype.name)).numpy(), (leaf, y)

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
        # Zeros where y does not depend on x; None would leave earlier layers without a gradient.
        return np.zeros(leaf.shape, dy.dtype) if dx is None else dx.contiguous().cpu().numpy()

    def __repr__(self) -> str:
        text = repr(self.module)
        return text if "\n" not in text else f"{type(self.module).__name__}(...)"
