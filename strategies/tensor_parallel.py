"""Tensor parallelism: every layer's neurons are split over the ranks, all of which see all rows."""

from mpi4py import MPI

from nn.batch import Batch
from nn.layers.dropout import rows_of
from nn.model import Model
from strategies.accumulation import gradients_in_parts
from strategies.base import refuse_sync_batch_norm
from strategies.sharding.layout import Sharded, part_of
from strategies.sharding.rewriting import split


class TensorParallel(Sharded):
    """The model is rewritten so that each rank computes some neurons of every layer.

    Linear layers come in pairs (Shoeybi et al., "Megatron-LM", 2019, section 3): the first is
    split by outputs (columns of W^T), activations stay split, the second is split by inputs (rows)
    and its partial products are summed: one Allreduce of activations for each pair forward, and
    one backward. A last Linear without a partner is split by inputs. Convolutions are split by
    output channel, and their input is gathered. Blocks of GPT-2 are split by attention heads and by
    hidden neurons, with two Allreduces of activations forward and two backward (ibid.). Layers of
    other kinds run on every rank in full, among them the embedding of tokens and the output.

    With more ranks than neurons or heads some ranks have empty parts, which is allowed.

    Args:
        accumulate: compute the rows in this many parts, as in `Sequential`.

    Raises:
        TypeError, ValueError: accumulate is not a whole number of at least 1.
    """

    def __init__(self, model: Model, optimizer, comm: MPI.Intracomm, *, accumulate: int = 1):
        super().__init__(model, optimizer, comm)
        self._accumulate(accumulate)
        refuse_sync_batch_norm(model)
        layers, _ = split(model, comm, comm.rank, need_dx=False)
        self.layouts = [split(model, comm, rank, False)[1] for rank in range(comm.size)]
        self.model = part_of(model, layers(), self.layouts[comm.rank])

    def gradients(self, batch: Batch) -> float:
        return gradients_in_parts(self._gradients, batch, self.accumulate)

    def _gradients(self, rows: Batch, add: bool = False) -> float:
        with rows_of(rows):
            return self.model.gradients(rows, add)  # every rank has the whole loss
