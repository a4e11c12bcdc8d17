"""Batches of which every rank has rows of its own, as programs with one data loader a rank do."""

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from nn.batch import Batch, Counting


class LocalBatch(Batch):
    """A global batch of which this rank has only its own rows; other ranks may have more or fewer.

    Data-parallel strategies train on it: the loss is divided by the count over all ranks, which
    they tell each other. It has a length and counts, and gives nothing but the shard of its rank.

    Args:
        x, y, weights: the rows of this rank, as for a Batch.
        comm: the communicator of the strategy; the constructor is collective over it.

    Raises:
        ValueError: as Batch; on every rank.
    """

    def __init__(self, x: Any, y: Any, comm: Any, weights: Any = None):
        problem, kind = "", ""
        try:
            super().__init__(x, y, weights=weights)
            kind = f"targets of shape (rows, *{self._target_shape})" + " and weights" * (
                weights is not None
            )
        except ValueError as error:  # the other ranks must hear of it
            problem = str(error)
        told = comm.allgather((problem, kind, 0 if problem else super().__len__()))
        for rank, (text, _, _) in enumerate(told):
            if text:
                raise ValueError(f"the rows of rank {rank}: {text}")
        for rank, (_, other, _) in enumerate(told):
            if other != told[0][1]:
                raise ValueError(f"rank {rank} has {other}, and rank 0 {told[0][1]}")
        rows: list[int] = [count for _, _, count in told]
        self._comm = comm
        self.global_rows = sum(rows)
        # Dropout masks belong to rows, so no two ranks may number theirs alike.
        first = sum(rows[: comm.rank])
        self._row_ids = slice(first, first + rows[comm.rank])

    def __len__(self) -> int:
        """Number of rows of all ranks; of the rows held, if this is the shard of a rank."""
        return super().__len__() if self._whole is not None else self.global_rows

    def shard(self, k: int, n: int) -> Self:
        """This rank's rows, or a part of them if this is a shard already.

        Raises:
            ValueError: the rows of another rank are asked for.
        """
        if self._whole is not None:
            return super().shard(k, n)
        if (k, n) != (self._comm.rank, self._comm.size):
            raise ValueError(
                f"shard {k} of {n} of a batch of which rank {self._comm.rank} of {self._comm.size} "
                "has its own rows only: expected a data-parallel strategy on the same communicator"
            )
        own = self._copy()
        own._whole = self
        return own

    @property
    def x(self) -> Any:
        return super().x if self._whole is not None else self.shard(0, 1).x

    @property
    def y(self) -> NDArray:
        return super().y if self._whole is not None else self.shard(0, 1).y

    def as_global(self) -> Batch:  # type: ignore[override]
        """The rows held as a batch of this rank alone."""
        own = Batch(super().x, super().y, weights=self.weights)
        own._row_ids = self._row_ids
        return own

    def read(self, k: int = 0, n: int = 1) -> Self:
        """This batch: its rows are here already."""
        return self

    def _count_by_value(self, loss: Counting) -> float:
        """The count over all ranks. Collective."""
        whole = self._whole or self
        own = loss.count(np.asarray(whole._y[whole._rows]), whole.weights)
        return float(sum(self._comm.allgather(own)))
