"""What strategies need of the ranks that train together."""

from abc import ABC, abstractmethod

from mpi4py import MPI


class Communicator(ABC):
    """Ranks that train together: an `MPI.Intracomm`, or an adapter with those of its verbs that
    strategies use, which says so by being a subclass of this one.
    """

    @property
    @abstractmethod
    def rank(self) -> int: ...
    @property
    @abstractmethod
    def size(self) -> int: ...


Communicator.register(MPI.Intracomm)
