"""A communicator that remembers what was made of it, to ask whether it was given back."""

from collections.abc import Callable

from mpi4py import MPI


class Watched(MPI.Intracomm):
    """`comm`, and in `made` every communicator that was derived from it, or from one of those.

    Not seen is what is derived from a grid (`Create_cart`), the grid itself is.
    """

    made: list[MPI.Comm]

    def __new__(cls, comm=None, made=None):
        self = super().__new__(cls, comm)
        self.made = [] if made is None else made
        return self

    @property
    def held(self) -> list[MPI.Comm]:
        """Of those made the ones that have not been freed."""
        return [comm for comm in self.made if comm != MPI.COMM_NULL]


def _remembered(name: str) -> Callable[..., MPI.Comm]:
    def method(self: Watched, *args, **kwargs):
        comm = getattr(super(Watched, self), name)(*args, **kwargs)
        if comm != MPI.COMM_NULL and not isinstance(comm, MPI.Cartcomm):
            comm = Watched(comm, self.made)
        self.made.append(comm)
        return comm

    return method


for verb in ("Clone", "Create", "Create_cart", "Create_group", "Dup", "Split", "Split_type"):
    setattr(Watched, verb, _remembered(verb))
