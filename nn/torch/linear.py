"""Layers around torch.nn.Linear, whose neurons can be split over ranks."""

from typing import Any

import numpy as np
import torch

from nn.layers import Linear
from nn.optim.vector import lacks_gradient
from nn.parameters import NO_GRADIENT
from nn.torch.layer import TorchLayer
from nn.torch.modules import hooked


def splittable(module: torch.nn.Module) -> bool:
    """Whether `TorchLinear` can split the module: a torch.nn.Linear itself, without hooks.

    If one of its parameters is frozen it is left whole.
    """
    plain = type(module) is torch.nn.Linear and not hooked(module)
    return plain and all(weight.requires_grad for weight in module.parameters())


class _RowByRow(TorchLayer):
    """Base class for a torch.nn.Linear, which is known to keep rows apart and is not tried."""

    def row_shape(self, shape):
        expected, made = self.module.in_features, self.module.out_features
        if shape[-1:] != (expected,):
            raise ValueError(f"{self} cannot take rows of shape {shape}: expected {expected}")
        return (*shape[:-1], made)


class TorchLinear(_RowByRow, Linear):
    """The layer of a torch.nn.Linear, with or without a bias."""

    @property
    def inputs(self) -> int:  # type: ignore[override]
        return self.shapes[0][1]

    @property
    def outputs(self) -> int:  # type: ignore[override]
        return self.shapes[0][0]

    def columns(self, outputs: int) -> "TorchLinear":
        """A Linear with this number of outputs, whose parameters are still to be bound."""
        module = linear_without_values(self.inputs, outputs, len(self.shapes) > 1, self._weights[0])
        return self._as_used(TorchLinear(module, self.device, self.compute))

    def rows(self, inputs: int, comm: Any) -> "TorchRowLinear":
        """A Linear with this number of inputs, whose outputs are summed over `comm`."""
        module = linear_without_values(inputs, self.outputs, False, self._weights[0])
        bias = len(self.shapes) > 1
        return self._as_used(TorchRowLinear(module, self.device, self.compute, comm, bias))

    def _as_used(self, part: Any) -> Any:
        """The part of this layer, which may lack a gradient where this layer may."""
        never, sometimes = (
            part.all_names if some else () for some in (self.unused, self.may_lack_gradient)
        )
        part.note_gradients(never=never, sometimes=sometimes, like=self)
        return part


def linear_without_values(
    inputs: int, outputs: int, bias: bool, like: torch.Tensor
) -> torch.nn.Linear:
    """Make a torch.nn.Linear whose parameters have no values yet, in dtype and place as `like`."""
    # Made small and then given its size, because torch warns if there are no neurons.
    module = torch.nn.Linear(1, 1, bias)
    module.in_features, module.out_features = inputs, outputs
    module.weight = torch.nn.Parameter(like.new_empty(outputs, inputs))
    if bias:
        module.bias = torch.nn.Parameter(like.new_empty(outputs))
    return module


class TorchRowLinear(_RowByRow):
    """A Linear of which each rank has the weights of some inputs, and all ranks the whole bias.

    The bias is no part of the module: it is added here, after the sum over the ranks. The numpy
    version of this layer is `strategies.sharding.split_layers.RowLinear`.

    Args:
        module: a torch.nn.Linear without a bias, for this rank's inputs.
        device: where the module computes.
        compute: the lower precision of `TorchLayer`, or None.
        comm: an object with `Allreduce(send, receive)` of numpy arrays, which sums over the ranks.
        bias: whether there is a bias.
    """

    def __init__(self, module, device, compute, comm: Any, bias: bool):
        super().__init__(module, device, compute)
        self.comm = comm
        if bias:
            self.shapes = (*self.shapes, (module.out_features,))

    def forward(self, x):
        own, ctx = super().forward(x)
        y = np.empty(own.shape, own.dtype)
        self.comm.Allreduce(np.ascontiguousarray(own), y)
        for bias in self.params[1:]:
            y += bias
        return y, ctx

    def backward(self, dy, ctx, need_dx=True, add=False):
        for gradient in self.grads[1:]:
            if self.below_cut and lacks_gradient(dy):
                gradient[...] = gradient if add else NO_GRADIENT
            else:
                gradient[...] = dy.sum(axis=0) + (gradient if add else 0)
        return super().backward(dy, ctx, need_dx, add)
