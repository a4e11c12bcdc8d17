"""The layers that tensor parallelism puts between, or in place of, the layers of a net.

Activations between two layers are either whole, the same on every rank, or split: each rank has its
part of the features (or channels). What goes forward from one to the other goes backward from the
other to the one:

============ ================= =================================== =============================
layer        from, to          forward                             backward
============ ================= =================================== =============================
RowLinear    split to whole    Allreduce of the outputs            nothing is sent
SumGradient  whole to whole    nothing is sent                     Allreduce
Gather       split to whole    Allgatherv                          Reduce_scatter
Collect      split to whole    Allgatherv                          each takes its part
Take         whole to split    each takes its part                 Allgatherv
============ ================= =================================== =============================
"""

import math

import numpy as np
from mpi4py import MPI

from nn.layers import Layer, Linear
from strategies.comm.channels_last import from_channels_last, to_channels_last

Parts = list[tuple[int, int]]
"""Half-open range of the features (or channels) that each rank holds."""


class RowLinear(Linear):
    """A Linear of which each rank holds the weights of some inputs, and the whole bias.

    The bias is added once, after the sum. Its gradient needs no sum: every rank sees the whole dy.
    """

    def __init__(self, inputs: int, outputs: int, comm: MPI.Intracomm):
        super().__init__(inputs, outputs)
        self.comm = comm

    def forward(self, x):
        weight, bias = self.params
        y = x @ weight.T
        self.comm.Allreduce(MPI.IN_PLACE, y, MPI.SUM)
        y += bias
        return y, x


class SumGradient(Layer):
    """Sums dx in front of a layer split by outputs, whose ranks each know dx of their outputs."""

    def __init__(self, comm: MPI.Intracomm):
        self.comm = comm

    def forward(self, x):
        return x, None

    def backward(self, dy, ctx, need_dx=True, add=False):
        if not need_dx:
            return None
        dy = to_channels_last(dy)
        self.comm.Allreduce(MPI.IN_PLACE, dy, MPI.SUM)
        return from_channels_last(dy)


class _Regroup(Layer):
    """A layer between whole activations and activations of which each rank holds a part."""

    def __init__(self, comm: MPI.Intracomm, rank: int, parts: Parts):
        self.comm, self.parts, self.mine = comm, parts, slice(*parts[rank])

    def _take(self, x):
        return x[:, self.mine]

    def _counts(self, x) -> list[int]:
        """Return the elements of each rank's part; x is whole, or one of the parts."""
        per_feature = len(x) * math.prod(x.shape[2:])
        return [per_feature * (hi - lo) for lo, hi in self.parts]

    def _gather(self, x):
        counts = self._counts(x)
        mine = to_channels_last(x)
        received = np.empty(sum(counts), x.dtype)
        self.comm.Allgatherv(mine, [received, counts])
        whole = np.empty((*mine.shape[:-1], self.parts[-1][1]), x.dtype)
        for (lo, hi), part in zip(self.parts, np.split(received, np.cumsum(counts)[:-1])):
            whole[..., lo:hi] = part.reshape(*mine.shape[:-1], hi - lo)
        return from_channels_last(whole)

    def _sum_and_take(self, x):
        counts = self._counts(x)
        x = np.moveaxis(x, 1, -1)
        sent = np.concatenate([x[..., lo:hi].ravel() for lo, hi in self.parts])
        mine = np.empty((*x.shape[:-1], self.mine.stop - self.mine.start), x.dtype)
        self.comm.Reduce_scatter(sent, mine, counts, MPI.SUM)
        return from_channels_last(mine)


class Gather(_Regroup):
    """Gathers parts in front of a layer split by outputs, and sums the gradient."""

    def row_shape(self, shape):
        return (self.parts[-1][1], *shape[1:])

    def forward(self, x):
        return self._gather(x), None

    def backward(self, dy, ctx, need_dx=True, add=False):
        return self._sum_and_take(dy)


class Collect(Gather):
    """Gathers parts in front of layers that every rank computes in full, so dy is whole."""

    def backward(self, dy, ctx, need_dx=True, add=False):
        return self._take(dy)


class Take(_Regroup):
    """Takes this rank's part of whole activations, and gathers the gradient."""

    def row_shape(self, shape):
        return (self.mine.stop - self.mine.start, *shape[1:])

    def forward(self, x):
        return self._take(x), None

    def backward(self, dy, ctx, need_dx=True, add=False):
        return self._gather(dy) if need_dx else None
