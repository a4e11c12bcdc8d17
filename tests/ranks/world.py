"""Give `MPI.COMM_WORLD` a new communicator after a fault, in the object that everybody holds."""

import copyreg
import ctypes
from typing import Any

from .mpi import MPI

LAUNCHED = MPI.Intracomm(MPI.COMM_WORLD)
"""The world of the launch, which `MPI.COMM_WORLD` no longer is after a fault."""


def renew(survivors: MPI.Comm) -> None:
    """Make `MPI.COMM_WORLD` a communicator of the surviving ranks. Collective over them.

    Its name and error handler stay. Attributes (also MPI.LASTUSEDCODE) are dropped: libraries keep
    communicators in them, which the fault has revoked.
    """
    world = MPI.COMM_WORLD
    new = survivors.Dup()
    new.Set_name(world.Get_name())
    new.Set_errhandler(world.Get_errhandler())
    prepare(new)
    # Python code may have bound the object to a name of its own: it is overwritten where it lies.
    ctypes.memmove(MPI._addressof(world), MPI._addressof(new), MPI._sizeof(MPI.Comm))
    copyreg.pickle(MPI.Intracomm, _pickled)


def prepare(comm: MPI.Comm) -> None:
    """Have mpi4py make its hidden duplicate of a communicator. Collective.

    Its first reduction of Python objects makes it, and holds the interpreter meanwhile. In a test,
    waiting for a missing rank, that would stop the watchdog.
    """
    comm.allreduce(None, op=_nothing)


def _nothing(a: None, b: None) -> None:
    """Reduce nothing: only the side effect of the collective is wanted."""


def _pickled(comm: MPI.Intracomm) -> Any:
    """Pickle `MPI.COMM_WORLD` by name, as mpi4py does, though its handle is another by now."""
    if comm is MPI.COMM_WORLD:
        return "COMM_WORLD"
    if comm == MPI.COMM_WORLD:
        return MPI.Intracomm, (MPI.COMM_WORLD,)
    return MPI.Comm.__reduce__(comm)
