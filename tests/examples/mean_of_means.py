"""A strategy of one's own, wrong on purpose: each rank's mean counts alike, however few its rows.

It is what a loop that calls a mean loss on every rank and then averages the gradients does. With
shards of equal size it is right, and on large uneven batches nothing in a loss curve shows it.
"""

import numpy as np
from mpi4py import MPI

from nn import Batch
from strategies import Strategy


class MeanOfMeans(Strategy):
    """Data parallelism that averages the gradients of the ranks' mean losses."""

    def gradients(self, batch: Batch) -> float:
        x, y = batch.part(self.comm.rank, self.comm.size)
        return self.model.gradients(Batch(x, y))  # the bug: a batch of its own, of its own rows

    def reduce(self, loss: float) -> float:
        self.comm.Allreduce(MPI.IN_PLACE, self.model.grads, MPI.SUM)
        np.divide(self.model.grads, self.comm.size, out=self.model.grads)
        return self.comm.allreduce(loss) / self.comm.size
