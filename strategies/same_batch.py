"""Checks that every rank was given the same global batch, with labels in range.

A rank sees only its own rows, so a batch that differs would go unnoticed, or leave ranks waiting.
"""

import zlib

import numpy as np
from mpi4py import MPI

from nn.batch import Batch, named_arrays
from nn.local_batch import LocalBatch
from nn.loss import Loss
from nn.sequences import Sequences


def check_same_batch(batch: Batch, comm: MPI.Intracomm) -> None:
    """Compare the ranks' batches by checksums of what is in memory. Collective.

    Rows that are read lazily, as from a memory map, are compared by their numbers.

    Raises:
        ValueError: the batches differ; on every rank.
    """
    is_local = isinstance(batch, LocalBatch)
    mine = (is_local, len(batch), 0 if is_local else _checksum(batch))
    everyone = comm.allgather(mine)
    if len({each[0] for each in everyone}) > 1:
        raise ValueError("some ranks were given a Batch.local, and others the global batch")
    if len(set(everyone)) > 1:
        rows = ", ".join(str(rows) for _, rows, _ in everyone)
        raise ValueError(
            f"the ranks were given different batches (of {rows} rows): step() takes the same "
            "global batch on every rank, from the same data and the same seed; for rows of each "
            "rank's own there is Batch.local(x, y, comm)"
        )


def _checksum(batch: Batch) -> int:
    stored = [array for _, array in named_arrays(batch._x, "x")]
    in_memory = [
        np.asarray(array[batch._rows]) for array in (*stored, batch._y) if type(array) is np.ndarray
    ]
    weights = batch.weights
    found = zlib.crc32(np.ascontiguousarray(batch.row_ids).data)
    for array in (*in_memory, *([] if weights is None else [weights])):
        found = zlib.crc32(np.ascontiguousarray(array).view(np.uint8).data, found)
    return found


def check_targets(batch: Batch, loss: Loss, outputs: int) -> None:
    """Check the labels of all rows where that is cheap: one number a row, in memory.

    Raises:
        ValueError: as `loss.check`; on every rank, since all see the same batch.
    """
    cheap = type(batch._y) is np.ndarray and batch._y.ndim == 1
    if outputs and cheap and not isinstance(batch, Sequences | LocalBatch):
        loss.check(batch.y, outputs)
