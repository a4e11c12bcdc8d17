"""A user's strategy, right: the gradient is summed in a ring of the ranks."""

import numpy as np
from mpi4py import MPI

from nn import Batch
from nn.batch import bounds
from strategies import Strategy


class RingDataParallel(Strategy):
    """Data parallelism with an Allreduce of its own (Patarasuk and Yuan, 2009).

    The gradient is cut into as many parts as there are ranks. In n - 1 rounds each rank passes
    one part to its right neighbour, which adds its own; then each rank holds the sum of one part,
    and in n - 1 further rounds the sums go round.
    """

    def gradients(self, batch: Batch) -> float:
        return self.model.gradients(batch.shard(self.comm.rank, self.comm.size))

    def reduce(self, loss: float) -> float:
        ranks, me = self.comm.size, self.comm.rank
        grads = self.model.grads
        parts = [slice(*bounds(k, ranks, len(grads))) for k in range(ranks)]
        received = np.empty(len(grads) // ranks + 1, grads.dtype)
        for summing in (True, False):
            for k in range(ranks - 1):
                sent, got = (parts[(me - k - back + (not summing)) % ranks] for back in (0, 1))
                buffer = received[: got.stop - got.start]
                self.comm.Sendrecv(
                    grads[sent], (me + 1) % ranks, recvbuf=buffer, source=(me - 1) % ranks
                )
                grads[got] = grads[got] + buffer if summing else buffer
        total = np.array([loss])
        self.comm.Allreduce(MPI.IN_PLACE, total, MPI.SUM)
        return float(total[0])
