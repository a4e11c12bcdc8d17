"""The norm of a gradient of which ranks may hold parts."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from nn.optim.vector import join_norm_parts, norm_of_part, norm_part

Places = Iterable[tuple[int, Any]]
"""Pairs of a place and a vector: on each rank the elements that it alone counts.

What has one place is summed first, over all ranks, and then the places in their order. With a place
for each parameter, a norm is the same to the bit wherever a pipeline is cut.
"""


def own_part(vectors: Places, order: float = 2.0, places: int = 1) -> NDArray:
    """Sum up this rank's vectors in float64, (places,).

    Args:
        vectors: numpy arrays or torch tensors.
        order: 2 for the Euclidean norm, infinity for the largest magnitude.
        places: number of places.
    """
    own = np.zeros(places)
    for place, vector in vectors:
        own[place] = join_norm_parts([own[place], norm_part([vector], order)], order)
    return own


def joined(own: NDArray, order: float = 2.0, comm: MPI.Intracomm | None = None) -> float:
    """Return the norm of the vectors of all ranks, the same to the bit on each. Collective.

    Args:
        own: what `own_part` returned.
        comm: ranks whose vectors count together, in one small message; None for this rank's alone.
    """
    if comm is not None and comm.size > 1:
        # Gathered and then summed alike on every rank: a sum by MPI may differ in its last bit
        # from rank to rank, and copies of one parameter would drift apart.
        of_all = np.empty((comm.size, len(own)))
        comm.Allgather(own, of_all)
        own = np.array([join_norm_parts(of_place, order) for of_place in of_all.T])
    return norm_of_part(join_norm_parts(own, order), order)


def norm(
    vectors: Places,
    order: float = 2.0,
    comm: MPI.Intracomm | None = None,
    places: int = 1,
) -> float:
    """Return the norm of all elements of some vectors: `own_part`, `joined`. Collective."""
    return joined(own_part(vectors, order, places), order, comm)
