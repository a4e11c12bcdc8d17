"""The norm of a gradient of which ranks may hold parts."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from mpi4py import MPI

from nn.optim.vector import join_norm_parts, norm_of_part, norm_part


def norm(vectors: Iterable[Any], order: float = 2.0, comm: MPI.Intracomm | None = None) -> float:
    """Norm of all elements of some vectors, summed in float64.

    Args:
        vectors: numpy arrays or torch tensors; on each rank the elements that it alone counts.
        order: 2 for the Euclidean norm, infinity for the largest magnitude.
        comm: ranks whose vectors count together, in one small message; the result is the same to
            the bit on all of them. None for this rank's alone.
    """
    part = norm_part(vectors, order)
    if comm is not None and comm.size > 1:
        # Gathered and then summed alike on every rank: a sum by MPI may differ in its last bit
        # from rank to rank, and copies of one parameter would drift apart.
        of_all = np.empty(comm.size)
        comm.Allgather(np.array([part]), of_all)
        part = join_norm_parts(of_all.tolist(), order)
    return norm_of_part(part, order)
