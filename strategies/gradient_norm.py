"""The norm of a gradient of which ranks may hold parts."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from mpi4py import MPI

from nn.optim.vector import join_norm_parts, norm_of_part, norm_part


def norm(
    vectors: Iterable[tuple[int, Any]],
    order: float = 2.0,
    comm: MPI.Intracomm | None = None,
    places: int = 1,
) -> float:
    """Norm of all elements of some vectors, summed in float64.

    Args:
        vectors: pairs of a place and a numpy array or torch tensor; on each rank the elements that
            it alone counts. What has one place is summed first, over all ranks, and then the places
            in their order. With a place for each parameter, the result is the same to the bit
            wherever a pipeline is cut.
        order: 2 for the Euclidean norm, infinity for the largest magnitude.
        comm: ranks whose vectors count together, in one small message; the result is the same to
            the bit on all of them. None for this rank's alone.
        places: number of places.
    """
    own = np.zeros(places)
    for place, vector in vectors:
        own[place] = join_norm_parts([own[place], norm_part([vector], order)], order)
    if comm is not None and comm.size > 1:
        # Gathered and then summed alike on every rank: a sum by MPI may differ in its last bit
        # from rank to rank, and copies of one parameter would drift apart.
        of_all = np.empty((comm.size, places))
        comm.Allgather(own, of_all)
        own = np.array([join_norm_parts(of_place, order) for of_place in of_all.T])
    return norm_of_part(join_norm_parts(own, order), order)
