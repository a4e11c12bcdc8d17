"""What it costs a core to take over what another core has just written."""

import time
from collections.abc import Callable, Sequence

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

FAR = 4.0
"""Cores share no cache if a line of another core takes this many times as long as one's own.

On idle machines of two virtual cores with a cache in common it took 1.3 to 3.1 times as long.
Without one, handing a gradient over takes about ten times as long.
"""

SMALLEST, LARGEST = 2**14, 2**16
"""Bytes to try it with: enough to be timed, and source and target fit into a core's own cache."""

TRIES = 5


def share_no_cache(comm: MPI.Intracomm, rows: Sequence[NDArray], fence: Callable) -> bool:
    """Tell whether rank 0 shares no cache with some other rank. Collective.

    It takes milliseconds where every rank has a core.

    Args:
        rows: vectors in memory that the ranks share, one for each, which are set to 0. Of rows
            with less than SMALLEST bytes nothing can be told.
        fence: makes what any rank wrote before it readable on every rank after it.

    Returns:
        The same on every rank.
    """
    length = min(rows[0].nbytes, LARGEST) // rows[0].itemsize
    if rows[0].nbytes < SMALLEST:
        return False
    target, far = np.empty(length, rows[0].dtype), False
    for writer in range(1, comm.size):
        theirs, own = [], []
        for _ in range(TRIES):
            if comm.rank == writer:
                rows[writer][:length] = 0
            fence()
            if comm.rank == 0:
                theirs.append(_seconds(rows[writer][:length], target))
                rows[0][:length] = 0
                own.append(_seconds(rows[0][:length], target))
            fence()
        # The fastest try: what disturbs one makes it slower.
        far = far or (comm.rank == 0 and min(theirs) > FAR * min(own))
    return comm.bcast(far)


def _seconds(source: NDArray, target: NDArray) -> float:
    start = time.perf_counter()
    np.copyto(target, source)
    return time.perf_counter() - start
