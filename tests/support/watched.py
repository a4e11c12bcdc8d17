"""A communicator that remembers those derived from it, to see whether they were freed."""

from mpi4py import MPI

from bench.core.instrumented import Instrumented


class _Watching(Instrumented):
    record: list[MPI.Comm]

    def _derived(self, real, args, kwargs):
        comm = super()._derived(real, args, kwargs)
        self.record.append(comm)
        return comm


class Watched(_Watching, MPI.Intracomm):
    """`comm`, with every communicator derived from it, directly or not, in `record`."""

    def __new__(cls, comm=None, record=None):
        return super().__new__(cls, comm, [] if record is None else record)

    @property
    def held(self) -> list[MPI.Comm]:
        """The derived communicators that have not been freed."""
        return [comm for comm in self.record if comm != MPI.COMM_NULL]


class _WatchedCart(_Watching, MPI.Cartcomm):
    pass


_Watching.kinds = {MPI.Intracomm: Watched, MPI.Cartcomm: _WatchedCart}
