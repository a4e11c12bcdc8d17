"""Torch's default process group, shared by all peers of this process."""

from datetime import timedelta

import torch.distributed as dist
from mpi4py import MPI

from strategies.comm.rendezvous import rendezvous

TIMEOUT = 60.0
"""Seconds that a rank waits for others, which may have failed."""

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
        store=rendezvous(comm, TIMEOUT),
        rank=comm.rank,
        world_size=comm.size,
        timeout=timedelta(seconds=TIMEOUT),
    )
    _ranks, _open = group, 1


def leave() -> None:
    """End the use of the process group by one peer; the last one destroys it."""
    global _open
    _open -= 1
    if not _open and dist.is_initialized():
        dist.destroy_process_group()
