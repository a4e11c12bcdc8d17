"""Which ranks share a node, and so its memory."""

from mpi4py import MPI


def place_on_node(comm: MPI.Intracomm) -> tuple[int, int]:
    """Return this rank's number among the ranks of `comm` on its node, and how many there are.

    Collective.
    """
    node = comm.Split_type(MPI.COMM_TYPE_SHARED)
    place = node.rank, node.size
    node.Free()
    return place


def on_one_node(comm: MPI.Intracomm) -> bool:
    """Return whether all ranks of `comm` share one node. Collective."""
    _, on_node = place_on_node(comm)
    return comm.allreduce(on_node, MPI.MIN) == comm.size
