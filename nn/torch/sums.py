"""Sums over ranks inside torch's graph.

Of a loss that all ranks share, a rank knows either its share of the gradient or the whole. Which,
decides whether a sum forward needs one backward:

=============== ================================== ====================================
function        forward                            backward
=============== ================================== ====================================
sum_of_shares   sums what each rank computed       sums: each rank knows a share
sum_of_parts    sums what each rank computed       nothing: each rank knows the whole
split_work      nothing: each rank has the whole   sums what each rank computed
=============== ================================== ====================================

The last two are g and f of Shoeybi et al., "Megatron-LM" (2019), figure 3.

`comm` is an object with `Allreduce(send, receive)` of numpy arrays, which sums over the ranks.
"""

from typing import Any

import torch


def sum_of_shares(x: torch.Tensor, comm: Any) -> torch.Tensor:
    """Return the sum of x over the ranks, on which the losses of all ranks depend."""
    return _Sum.apply(x, comm, True, True)


def sum_of_parts(x: torch.Tensor, comm: Any) -> torch.Tensor:
    """Return the sum of x over the ranks, behind which all ranks compute the same."""
    return _Sum.apply(x, comm, True, False)


def split_work(x: torch.Tensor, comm: Any) -> torch.Tensor:
    """Return x, the same on all ranks, for each to compute a part of what follows."""
    return _Sum.apply(x, comm, False, True)


class _Sum(torch.autograd.Function):
    """The sum over the ranks, forward, backward, or both."""

    @staticmethod
    def forward(ctx, x, comm, forward, backward):
        ctx.comm, ctx.backward_too = comm, backward
        return _sum(x, comm) if forward else x.view_as(x)

    @staticmethod
    def backward(ctx, dy):
        return _sum(dy, ctx.comm) if ctx.backward_too else dy, None, None, None


def _sum(x: torch.Tensor, comm: Any) -> torch.Tensor:
    # Numpy has no bfloat16, in which a sum would be too coarse anyway.
    wide = x.detach().to("cpu", torch.promote_types(x.dtype, torch.float32)).contiguous()
    total = torch.empty_like(wide)
    comm.Allreduce(wide.numpy(), total.numpy())
    return total.to(x)
