"""Plain training in one process: the definition of right."""

from mpi4py import MPI

from nn.batch import Batch
from strategies.accumulation import gradients_in_parts
from strategies.base import Strategy


class Sequential(Strategy):
    """The oracle: computes the gradient of the whole batch, updates, and talks to nobody.

    Every rank that runs it does the same work; `comm` may be left out.

    Args:
        accumulate: compute the batch in this many parts, whose gradients are added, with memory
            for the activations of one part. The update is the same to rounding, except that
            torch's batch norm takes the mean and variance of each part.

    Raises:
        TypeError, ValueError: accumulate is not a whole number of at least 1.
        Refused: accumulate with sync_batch_norm.
    """

    steps_together = False
    same_arguments = False  # some ranks may run it and others not

    def __init__(self, model, optimizer, comm: MPI.Intracomm | None = None, *, accumulate: int = 1):
        super().__init__(model, optimizer, comm or MPI.COMM_SELF)
        self._accumulate(accumulate)

    def _together(self, check) -> None:
        """Check by itself, since some ranks may run it and others not."""
        check()

    def gradients(self, batch: Batch) -> float:
        return gradients_in_parts(self.model.gradients, batch, self.accumulate)
