"""A rank that trains on its own rows, as `LocalSGD` and `Hogwild` do between their meetings."""

import math

from mpi4py import MPI

from nn.batch import Batch


def own_gradients(model, batch: Batch, comm: MPI.Intracomm, add: bool = False) -> tuple[float, int]:
    """Write (or add) the gradient of this rank's rows as a batch of its own: a mean over these.

    Returns:
        The mean loss over these rows (nan where there are none), and their number.
    """
    own = batch.shard(comm.rank, comm.size).as_global()
    loss = model.gradients(own, add=add)
    return loss if len(own) else math.nan, len(own)
