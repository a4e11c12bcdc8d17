"""The gradient noise scale, from the gradients that the ranks of data parallelism have anyway.

McCandlish, Kaplan, Amodei et al., "An empirical model of large-batch training" (2018). The gradient
of a batch of B rows is the gradient G of all rows that there might be, plus noise: its squared norm
is |G|^2 + tr(S) / B on average, where S is the covariance of the gradients of single rows (section
2.2). The noise scale tr(S) / |G|^2 is the batch size at which both parts are equal, and predicts
the critical batch size: where a batch has far fewer rows, twice the rows are worth twice the steps.
"""

import math
from dataclasses import dataclass, field

import numpy as np
from mpi4py import MPI

from nn.batch import Batch
from strategies.base import Refused
from strategies.data_parallel import DataParallel
from strategies.gradient_norm import norm


def estimate(small: float, small_rows: float, big: float, big_rows: float) -> tuple[float, float]:
    """Estimate |G|^2 and tr(S) without bias: section 2.2 and appendix A.1 of the paper.

    Both follow from `small` = |G|^2 + tr(S) / small_rows and the same of `big`, on average.

    Args:
        small, big: squared norms of the mean gradients over so many rows.
        small_rows, big_rows: the two batch sizes. Of several small batches, `small` is the mean of
            their squared norms and 1 / `small_rows` the mean of 1 / rows.

    Returns:
        |G|^2 and tr(S); noise makes either negative now and then, so take means over many steps.

    Raises:
        ValueError: not 0 < small_rows < big_rows.
    """
    if not 0 < small_rows < big_rows:
        raise ValueError(
            f"batches of {small_rows:g} and {big_rows:g} rows: a noise scale needs two sizes, the "
            "smaller first"
        )
    trace = (small - big) / (1 / small_rows - 1 / big_rows)
    return big - trace / big_rows, trace


@dataclass
class Noise:
    """Estimates of every step of a training.

    Attributes:
        squared: |G|^2 of each step.
        trace: tr(S) of each step.
    """

    squared: list[float] = field(default_factory=list)
    trace: list[float] = field(default_factory=list)

    def scale(self, since: float = 0.0) -> float:
        """Return the noise scale in rows: the mean of tr(S) over the mean of |G|^2.

        A mean of ratios would be biased (appendix A.1). It is infinite where the gradient cannot be
        told from its noise, and nan before the first step.

        Args:
            since: the share of the steps, from the first on, that is left out.
        """
        first = math.floor(since * len(self.trace))
        squared, trace = self.squared[first:], self.trace[first:]
        if not trace or not np.isfinite([*squared, *trace]).all():
            return math.nan
        mean = float(np.mean(squared))
        return float(np.mean(trace)) / mean if mean > 0 else math.inf


class NoisyDataParallel(DataParallel):
    """Data parallelism that estimates the noise scale in every step.

    The small batches are the ranks' shards, the big one is the batch. Beside the Allreduce of the
    gradient there is another one, of 24 bytes.

    Attributes:
        noise: the estimates of all steps, the same on every rank. A step in which fewer than two
            ranks have rows has none.

    Raises:
        Refused: a single rank, whose gradient is of one batch size only.
    """

    def __init__(self, model, optimizer, comm: MPI.Intracomm):
        super().__init__(model, optimizer, comm)
        if comm.size < 2:
            raise Refused(
                "a noise scale needs gradients over two batch sizes: expected 2 ranks or more"
            )
        self.noise = Noise()

    def gradients(self, batch: Batch) -> float:
        loss = super().gradients(batch)
        rows = len(batch.shard(self.comm.rank, self.comm.size))
        self._rows, self._small = batch.global_rows, np.zeros(3)
        if rows:
            # The share of the gradient is divided by all rows: scaled, it is the mean over its own.
            own = (self._rows / rows) ** 2 * norm([(0, self.model.grads)]) ** 2
            self._small[:] = own, 1 / rows, 1
        return loss

    def reduce(self, loss: float) -> float:
        loss = super().reduce(loss)
        self.comm.Allreduce(MPI.IN_PLACE, self._small, MPI.SUM)
        total, inverse_rows, ranks = self._small
        if ranks > 1:
            big = norm([(0, self.model.grads)]) ** 2
            squared, trace = estimate(total / ranks, ranks / inverse_rows, big, self._rows)
            self.noise.squared.append(squared)
            self.noise.trace.append(trace)
        return loss
