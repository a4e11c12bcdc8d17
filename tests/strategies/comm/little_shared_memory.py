"""Make shared windows where /dev/shm is small, and say on each rank what came of it.

mpiexec -n 2 python -m tests.strategies.comm.little_shared_memory
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from mpi4py import MPI

from nn import SGD, mlp
from strategies import SharedDataParallel
from strategies.base import Refused
from strategies.comm.shared_memory import allocate_shared

OTHER = Path("/dev/shm/other")


class Filling(MPI.Win):
    """A window in whose folder another program takes the last room before it is touched."""

    @classmethod
    def Allocate_shared(cls, *args, **kwargs):
        made = super().Allocate_shared(*args, **kwargs)
        if MPI.COMM_WORLD.rank == 0:
            there = os.statvfs("/dev/shm")
            OTHER.write_bytes(bytes(there.f_bavail * there.f_frsize - 100_000))
        return made


def attempt(what: str, act: Callable[[], Any]) -> None:
    try:
        act()
        said = "made"
    except Refused as error:
        said = str(error)
    ranks = comm.allgather(said)
    if comm.rank == 0:
        print(what, len(set(ranks)), ranks[0], sep=": ", flush=True)


comm = MPI.COMM_WORLD
attempt("large", lambda: SharedDataParallel(mlp([2000, 2000, 10]), SGD(0.1), comm))
with mock.patch.object(MPI, "Win", Filling):
    attempt("filled", lambda: allocate_shared(comm, 2_000_000))
if comm.rank == 0:
    OTHER.unlink()
attempt("small", lambda: SharedDataParallel(mlp([100, 10]), SGD(0.1), comm).close())
