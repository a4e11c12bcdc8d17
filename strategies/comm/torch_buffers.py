"""Buffers of a TorchComm: numpy arrays and torch tensors, as vectors that torch sends."""

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

Buffer = NDArray | torch.Tensor
"""Contiguous, on any device."""


class Request:
    """A transfer that has begun, and that `Wait` or `Test` completes.

    gloo reports a message only to `Wait`: until then `Test` returns False.

    Args:
        work: torch's handle of the transfer.
        there, here: the tensor that is sent or received, and the one that it is copied to.
    """

    def __init__(self, work: dist.Work, there: torch.Tensor, here: torch.Tensor):
        # None once complete: gloo would wait for a message a second time, in vain.
        self._transfer: tuple[dist.Work, torch.Tensor, torch.Tensor] | None = work, there, here

    def Wait(self) -> None:
        if self._transfer:
            work, there, here = self._transfer
            self._transfer = None
            work.wait()
            copy_into(there, here)

    def Test(self) -> bool:
        if self._transfer and not self._transfer[0].is_completed():
            return False
        self.Wait()  # raises what went wrong
        return True


def as_vector(buffer: Buffer) -> torch.Tensor:
    """Return the memory of a buffer as a vector, without a copy."""
    if isinstance(buffer, np.ndarray):
        # torch only warns of read-only memory.
        usable = buffer.flags.c_contiguous and buffer.flags.writeable
        tensor = torch.from_numpy(buffer) if usable else None
    else:
        tensor = buffer.detach() if buffer.is_contiguous() else None
    if tensor is None:
        raise ValueError("expected a buffer in contiguous memory that may be written to")
    return tensor.view(-1)


def copy_into(source: torch.Tensor, target: torch.Tensor) -> None:
    """Copy what a rank sends to itself, or what came from another device."""
    if source.shape != target.shape or source.dtype != target.dtype:
        raise ValueError(
            f"{source.numel()} elements of {source.dtype} do not fit into {target.numel()} of "
            f"{target.dtype}"
        )
    if source is not target:
        target.copy_(source)
