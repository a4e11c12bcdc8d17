"""Where the ranks of an MPI communicator meet to talk through torch.distributed."""

import socket
from datetime import timedelta

import torch.distributed as dist
from mpi4py import MPI

from strategies.comm.node import on_one_node


def rendezvous(comm: MPI.Intracomm, timeout: float) -> dist.TCPStore:
    """Make a store on rank 0, by which process groups of these ranks find each other. Collective.

    The port is any free one, which the other ranks learn through MPI, so two jobs on one machine
    cannot clash. Ranks of one node meet on localhost, since a host's own name may not resolve.

    Args:
        timeout: seconds that a rank waits for the store, and for keys in it.
    """
    host = comm.bcast("localhost" if on_one_node(comm) else socket.gethostname())

    def store(port: int, is_master: bool) -> dist.TCPStore:
        return dist.TCPStore(
            host,
            port,
            is_master=is_master,
            wait_for_workers=False,
            timeout=timedelta(seconds=timeout),
        )

    if comm.rank == 0:
        made = store(0, is_master=True)
        comm.bcast(made.port)
        return made
    return store(comm.bcast(None), is_master=False)
