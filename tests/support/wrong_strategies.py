"""Strategies with a mistake that a check has to notice. One more is in tests/examples."""

import numpy as np

from strategies import DataParallel


class Unreduced(DataParallel):
    """Wrong: every rank trains on its own rows."""

    def reduce(self, loss):
        return loss


class LastRankDiverges(DataParallel):
    """Wrong on one rank only."""

    def weights(self):
        weights = super().weights()
        if self.comm.rank == self.comm.size - 1:
            weights[0] = np.nan
        return weights


class Lazy(DataParallel):
    """Wrong: it does not train at all."""

    def update(self):
        pass
