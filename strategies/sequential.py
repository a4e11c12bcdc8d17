"""Plain training in one process: the definition of right."""

from mpi4py import MPI

from nn.batch import Batch
from strategies.base import Strategy


class Sequential(Strategy):
    """The oracle: computes the gradient of the whole batch, updates, and talks to nobody.

    Every rank that runs it does the same work; `comm` may be left out.
    """

    steps_together = False

    def __init__(self, model, optimizer, comm: MPI.Intracomm | None = None):
        super().__init__(model, optimizer, comm or MPI.COMM_SELF)

    def _check_start(self, params, comm) -> None:
        """Check nothing, since some ranks may run it and others not."""

    def gradients(self, batch: Batch) -> float:
        return self.model.gradients(batch)
