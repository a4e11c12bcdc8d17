"""Memory that the ranks of a node share, or a reason why there is none."""

import ctypes
import errno
import math
import mmap
import os
from pathlib import Path

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from strategies.base import Refused
from strategies.comm.raise_together import raise_together

FOLDER = "OMPI_MCA_osc_sm_backing_directory"
"""Environment variable: where Open MPI keeps the files of shared windows, by default /dev/shm."""

CUSHION = 1.05
"""Open MPI leaves 5% of the folder free, and without room it fails on rank 0 only."""

_POPULATE = 23
"""MADV_POPULATE_WRITE of Linux 5.14: provide pages, or say that there are none."""


def allocate_shared(comm: MPI.Intracomm, size: int) -> MPI.Win:
    """Make a window of `size` bytes on rank 0, and none on others, that all ranks see. Collective.

    Raises:
        Refused: there is no room for it; on every rank.
    """
    alone = comm.size == 1  # MPI then takes memory of the process
    folder = Path(os.environ.get(FOLDER) or "/dev/shm")
    raise_together(comm, lambda: None if alone or comm.rank else _check_room(folder, size))
    win = MPI.Win.Allocate_shared(0 if comm.rank else size, 1, comm=comm)
    buffer, _ = win.Shared_query(0)
    memory = np.frombuffer(buffer, np.uint8)  # type: ignore[call-overload]
    try:
        raise_together(comm, lambda: None if alone or comm.rank else _take_pages(folder, memory))
    except Refused:
        win.Free()
        raise
    return win


def _check_room(folder: Path, size: int) -> None:
    """Raise Refused if a folder has no room for a file of some bytes."""
    free = _free(folder)
    if CUSHION * size > free:
        raise _no_room(folder, size, free)


def _take_pages(folder: Path, memory: NDArray) -> None:
    """Have the system provide all pages now, since it would kill the process that finds none.

    The folder may have filled since it was checked: the file has no pages until they are touched.
    """
    free = _free(folder)
    start = memory.ctypes.data // mmap.PAGESIZE * mmap.PAGESIZE
    length = memory.ctypes.data + memory.nbytes - start
    libc = ctypes.CDLL(None, use_errno=True)
    failed = libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), _POPULATE)
    if failed and ctypes.get_errno() in (errno.EFAULT, errno.ENOMEM):  # EINVAL: an older system
        raise _no_room(folder, memory.nbytes, free)


def _free(folder: Path) -> float:
    """Bytes that are free in a folder; infinite if it is not there, as another MPI uses another."""
    try:
        there = os.statvfs(folder)
    except OSError:
        return math.inf
    return there.f_bavail * there.f_frsize


def _no_room(folder: Path, size: int, free: float) -> Refused:
    return Refused(
        f"the ranks share {size / 1e6:.1f} MB in {folder}, which with a reserve of 5% takes "
        f"{CUSHION * size / 1e6:.1f} MB, and {free / 1e6:.1f} MB are free there: make it larger "
        f"(docker run --shm-size=..., or mount -o remount,size=... {folder}), set {FOLDER} to a "
        "folder on a local disk, or use a strategy that shares no memory, such as DataParallel"
    )
