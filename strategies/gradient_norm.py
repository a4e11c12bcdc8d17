"""The norm of a gradient of which ranks may hold parts."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from mpi4py import MPI

CHUNK = 1 << 15
"""Elements that are converted to float64 at a time, so that they stay in the cache."""


def norm(vectors: Iterable[Any], order: float = 2.0, comm: MPI.Intracomm | None = None) -> float:
    """Norm of all elements of some vectors, summed in float64.

    Args:
        vectors: numpy arrays or torch tensors; on each rank the elements that it alone counts.
        order: 2 for the Euclidean norm, infinity for the largest magnitude.
        comm: ranks whose vectors count together, in one small message; the result is the same to
            the bit on all of them. None for this rank's alone.
    """
    parts = [_part(chunk, order) for vector in vectors for chunk in _chunks(vector)]
    part = _joined(parts, order)
    if comm is not None and comm.size > 1:
        # Gathered and then summed alike on every rank: a sum by MPI may differ in its last bit
        # from rank to rank, and copies of one parameter would drift apart.
        of_all = np.empty(comm.size)
        comm.Allgather(np.array([part]), of_all)
        part = _joined(of_all.tolist(), order)
    return part if order == math.inf else math.sqrt(part)


def _chunks(vector: Any) -> Iterable[Any]:
    if not isinstance(vector, np.ndarray):
        yield vector.detach().double().cpu().numpy()
        return
    for at in range(0, len(vector), CHUNK):
        yield vector[at : at + CHUNK].astype(np.float64, copy=False)


def _part(chunk: Any, order: float) -> float:
    if order == math.inf:
        return float(np.abs(chunk).max())  # NaN if one element is
    return float(np.square(chunk).sum())  # the bits of np.dot depend on where memory begins


def _joined(parts: list[float], order: float) -> float:
    """The largest, or the sum; NaN if one part is."""
    if order == math.inf:
        return float(np.max([0.0, *parts]))
    return float(np.sum(parts))
