"""Vectors in the shared memory of one node (MPI-3 shared windows)."""

import math

import numpy as np
from mpi4py import MPI
from numpy.typing import DTypeLike, NDArray

from strategies.base import Refused
from strategies.comm.node import on_one_node
from strategies.comm.shared_memory import allocate_shared

LINE = 64
"""Bytes of a cache line."""


class SharedWindow:
    """`rows` vectors of `length` elements, and a float64 for each rank, that all ranks see.

    Rank 0 allocates all of it, since the segment of a second rank would not begin on a cache
    line. Every vector begins on a line of its own.

    Attributes:
        rows: the vectors, zero at first.
        scalars: (size,) float64, one for each rank, each on a line of its own.

    Raises:
        Refused: the ranks of `comm` are on more than one node, or it has no room for the window.
    """

    def __init__(self, comm: MPI.Intracomm, dtype: DTypeLike, rows: int, length: int):
        if not on_one_node(comm):
            raise Refused(
                f"{comm.size} ranks on more than one node cannot share memory: use DataParallel "
                "across nodes, or a communicator of one node (comm.Split_type)"
            )
        dtype = np.dtype(dtype)
        row_bytes = math.ceil(length * dtype.itemsize / LINE) * LINE
        total = rows * row_bytes + comm.size * LINE
        self._comm = comm
        self._win = allocate_shared(comm, total + LINE)
        buffer, _ = self._win.Shared_query(0)
        memory = np.frombuffer(buffer, np.uint8)  # type: ignore[call-overload]
        # Page alignment is the same on every rank, so all skip the same bytes to the first line.
        memory = memory[-memory.ctypes.data % LINE :][:total]
        self.rows: list[NDArray] = [
            memory[i * row_bytes :][: length * dtype.itemsize].view(dtype) for i in range(rows)
        ]
        self.scalars: NDArray = memory[rows * row_bytes :].view(np.float64)[:: LINE // 8]
        self._win.Lock_all(MPI.MODE_NOCHECK)
        if comm.rank == 0:
            memory[:] = 0
        self.fence()

    def fence(self) -> None:
        """Make what any rank wrote before it readable on every rank after it. Collective."""
        self._win.Sync()
        self._comm.Barrier()
        self._win.Sync()

    @property
    def is_open(self) -> bool:
        return self._win != MPI.WIN_NULL

    def close(self) -> None:
        """Free the memory. Collective. Drop all views first: using one would crash the process."""
        if self.is_open:
            self.rows, self.scalars = [], np.empty(0)
            self._win.Unlock_all()
            self._win.Free()
