"""Tensor parallelism: every layer's neurons are split over the ranks, all of which see all rows."""

from mpi4py import MPI

from nn.batch import Batch
from nn.layers.dropout import rows_of
from nn.model import Model
from strategies.base import refuse_synchronised
from strategies.sharding.layout import Sharded, part_of
from strategies.sharding.rewriting import split


class TensorParallel(Sharded):
    """Neuron groups over ranks: the model is rewritten so that each rank computes its part.

    Linear layers come in pairs (Shoeybi et al., "Megatron-LM", 2019, section 3): the first is
    split by outputs (columns of W^T), activations stay split, the second is split by inputs (rows)
    and its partial products are summed. That is one Allreduce of activations a pair forward, and
    one backward. A last Linear without a partner is split by inputs. Convolutions are split by
    output channel, their input is gathered. Layers of other kinds run on every rank in full.

    More ranks than neurons leave some with empty parts, which is allowed.
    """

    def __init__(self, model: Model, optimizer, comm: MPI.Intracomm):
        super().__init__(model, optimizer, comm)
        refuse_synchronised(model)
        layers, _ = split(model, comm, comm.rank, need_dx=False)
        self.layouts = [split(model, comm, rank, False)[1] for rank in range(comm.size)]
        self.model = part_of(model, layers(), self.layouts[comm.rank])

    def gradients(self, batch: Batch) -> float:
        with rows_of(batch):
            return self.model.gradients(batch)  # the same loss on every rank: none to reduce
