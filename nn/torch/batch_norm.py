"""Batch norm on several ranks: synchronised in training on request, running statistics always."""

from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.modules.batchnorm import _BatchNorm

from nn.torch.modules import hooked
from nn.torch.sums import sum_of_shares


class SyncBatchNorm(_BatchNorm):
    """Batch norm with mean and variance over the rows of all ranks together.

    This is algorithm 1 of Ioffe and Szegedy, "Batch normalization" (2015), over the whole batch,
    however it is split over the ranks. It takes two sums of one number per channel forward, and
    two backward.

    Args:
        norm: the batch norm to replace; its parameters and statistics are taken over.
        comm: an object with `Allreduce(send, receive)` of numpy arrays, which sums over the ranks.
    """

    def __init__(self, norm: _BatchNorm, comm: Any):
        super().__init__(
            norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats
        )
        for name, tensor in [*norm.named_parameters(), *norm.named_buffers()]:
            setattr(self, name, tensor)
        # A function is shared by copies of the module, so the communicator in it is not copied.
        self.sum = lambda x: sum_of_shares(x, comm)

    def _check_input_dim(self, input: torch.Tensor) -> None:
        """Accept rows of any dimension."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return super().forward(x)
        computed_in = x.dtype
        x = x.to(
            torch.promote_types(computed_in, torch.float32)
        )  # sums in bfloat16 would be too coarse
        dims = [0, *range(2, x.ndim)]
        channels = [1, -1] + [1] * (x.ndim - 2)
        count = x.new_full((1,), x.numel() / x.shape[1])
        total = self.sum(torch.cat([x.sum(dims), count]))
        n = total[-1].detach()
        if n < 2:
            raise ValueError("batch norm in training over one value per channel: expected more")
        mean = total[:-1] / n
        centred = x - mean.view(channels)
        variance = self.sum((centred**2).sum(dims)) / n
        y = centred * torch.rsqrt(variance + self.eps).view(channels)
        if self.track_running_stats:
            self._track(mean.detach(), (variance * n / (n - 1)).detach())
        if self.affine:
            y = y * self.weight.view(channels) + self.bias.view(channels)
        return y.to(computed_in)

    def _track(self, mean: torch.Tensor, variance: torch.Tensor) -> None:
        running_mean, running_variance, batches = self.buffers()
        batches += 1
        part = 1 / float(batches) if self.momentum is None else self.momentum
        running_mean.lerp_(mean, part)
        running_variance.lerp_(variance, part)


REPLACEABLE = (
    torch.nn.BatchNorm1d,
    torch.nn.BatchNorm2d,
    torch.nn.BatchNorm3d,
    torch.nn.SyncBatchNorm,
    SyncBatchNorm,
)
"""Kinds of batch norm in whose place `SyncBatchNorm` computes the same; subclasses may differ."""


class RunningStatistics:
    """The running statistics of all batch norms of a net.

    This object holds the buffers and not the modules, so that a strategy that has copied its part
    of the parameters out of a model can release the rest.

    Args:
        net: the net. Each of its batch norms counts in `seen` how many rows it has normalised in
            training since the last `gather`.
    """

    def __init__(self, net: torch.nn.Module):
        self._norms: dict[str, tuple[NDArray, dict[str, torch.Tensor]]] = {
            name: (cast(NDArray, norm.seen), dict(norm.named_buffers()))
            for name, norm in net.named_modules()
            if isinstance(norm, _BatchNorm) and norm.track_running_stats
        }

    def gather(self, comm: Any) -> None:
        """Give every rank the statistics over the rows of all ranks. Collective.

        Before, each rank has the statistics of the rows that it computed; after, all ranks have
        their mean, weighted by the number of rows of each since the last `gather`.

        Args:
            comm: the communicator of a strategy.
        """
        if comm.size == 1:
            return  # a weighted mean of one would round
        for seen, buffers in self._norms.values():
            weighted = (buffer.cpu().numpy().ravel() * seen for buffer in buffers.values())
            own = np.concatenate([seen, *weighted])
            total = np.empty_like(own)
            comm.Allreduce(own, total)
            rows, mean = total[0], total[1:]
            seen[:] = 0
            at = 0
            for buffer in buffers.values() if rows else ():
                value = mean[at : at + buffer.numel()] / rows
                at += buffer.numel()
                if not buffer.is_floating_point():
                    value = value.round()
                buffer.copy_(torch.from_numpy(value).view_as(buffer))

    def arrays(self) -> dict[str, NDArray]:
        """Copies of the statistics by name, such as "1.running_mean" for module 1."""
        return {name: buffer.cpu().numpy().copy() for name, buffer in self._buffers().items()}

    def check(self, arrays: dict[str, NDArray]) -> None:
        """Raise ValueError if `load` cannot take these, since they belong to another model."""
        own = {name: (buffer.shape, buffer.dtype) for name, buffer in self.arrays().items()}
        if {name: (np.shape(a), np.asarray(a).dtype) for name, a in arrays.items()} != own:
            raise ValueError(f"statistics of {sorted(arrays)}: expected {_listed(own)}")

    def load(self, arrays: dict[str, NDArray]) -> None:
        """Take over statistics that `arrays` returned.

        Raises:
            ValueError: they belong to another model; nothing is changed then.
        """
        self.check(arrays)
        for name, buffer in self._buffers().items():
            buffer.copy_(torch.from_numpy(np.asarray(arrays[name])))
        for seen, _ in self._norms.values():
            seen[:] = 0

    def _buffers(self) -> dict[str, torch.Tensor]:
        return {
            f"{name}.{kind}": buffer
            for name, (_, buffers) in self._norms.items()
            for kind, buffer in buffers.items()
        }


def _listed(arrays: dict[str, tuple[tuple[int, ...], np.dtype]]) -> str:
    return ", ".join(f"{name} of {shape} and {dtype}" for name, (shape, dtype) in arrays.items())


def synchronise(net: torch.nn.Module, comm: Any) -> None:
    """Replace every batch norm in `net` by `SyncBatchNorm`.

    Raises:
        TypeError: comm has no `Allreduce`.
        ValueError: a batch norm does more than its kind, through a subclass or a hook.
    """
    if not callable(getattr(comm, "Allreduce", None)):
        raise TypeError(f"sync_batch_norm={comm!r}: expected the communicator of the strategy")
    twins: dict[torch.nn.Module, SyncBatchNorm] = {}
    for parent in list(net.modules()):
        for place, child in list(parent._modules.items()):  # named_children() leaves out repeats
            if isinstance(child, _BatchNorm):
                if type(child) not in REPLACEABLE or hooked(child):
                    raise ValueError(
                        f"sync_batch_norm cannot replace {child}, which does more than batch norm: "
                        "expected torch.nn.BatchNorm1d to 3d themselves, without hooks"
                    )
                twins[child] = twins.get(child) or SyncBatchNorm(child, comm)
                setattr(parent, place, twins[child])
