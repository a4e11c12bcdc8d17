"""A user's strategy, wrong on purpose: each rank's mean counts the same, however few its rows.

A loop that takes a mean loss on every rank and then averages the gradients does this. With shards
of equal size it is right, and with large uneven batches no loss curve shows the bug.
"""

import numpy as np
from mpi4py import MPI

from nn import Batch
from strategies import Strategy


class MeanOfMeans(Strategy):
    """Data parallelism that averages the gradients of the ranks' mean losses."""

    def gradients(self, batch: Batch) -> float:
        x, y = batch.part(self.comm.rank, self.comm.size)
        return self.model.gradients(Batch(x, y))  # the bug: this batch counts its own rows only

    def reduce(self, loss: float) -> float:
        self.comm.Allreduce(MPI.IN_PLACE, self.model.grads, MPI.SUM)
        np.divide(self.model.grads, self.comm.size, out=self.model.grads)
        return self.comm.allreduce(loss) / self.comm.size
