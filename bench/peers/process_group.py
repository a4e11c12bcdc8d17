"""Torch's default process group, shared by all peers of this process."""

import socket
from datetime import timedelta

import torch.distributed as dist
from mpi4py import MPI

TIMEOUT = timedelta(seconds=60)
"""How long a rank waits for others, which may have failed."""

_ranks = MPI.GROUP_NULL
_open = 0


def enter(comm: MPI.Intracomm) -> None:
    """Make torch's default process group of these ranks, unless it is already. Collective."""
    global _ranks, _open
    group = comm.Get_group()
    same = dist.is_initialized() and MPI.Group.Compare(_ranks, group) == MPI.IDENT
    if comm.allreduce(same, MPI.LAND):
        _open += 1
        return
    if dist.is_initialized():
        dist.destroy_process_group()  # left by ranks that failed and did not close it
    dist.init_process_group(
        "gloo",
        store=_meet(comm),
        rank=comm.rank,
        world_size=comm.size,
        timeout=TIMEOUT,
    )
    _ranks, _open = group, 1


def leave() -> None:
    """End the use of the process group by one peer; the last one destroys it."""
    global _open
    _open -= 1
    if not _open and dist.is_initialized():
        dist.destroy_process_group()


def _meet(comm: MPI.Intracomm) -> dist.TCPStore:
    """Make a store that all these ranks share, on a free port of the first rank's host."""
    node = comm.Split_type(MPI.COMM_TYPE_SHARED)
    one_node = comm.allreduce(node.size == comm.size, MPI.LAND)
    node.Free()
    host = comm.bcast("localhost" if one_node else socket.gethostname())
    store, port = None, 0
    if comm.rank == 0:
        store = _store(host, 0, comm)
        port = store.port
    port = comm.bcast(port)  # so launches side by side cannot clash
    return store or _store(host, port, comm)


def _store(host: str, port: int, comm: MPI.Intracomm) -> dist.TCPStore:
    return dist.TCPStore(
        host, port, is_master=comm.rank == 0, wait_for_workers=False, timeout=TIMEOUT
    )
