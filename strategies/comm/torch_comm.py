"""Ranks that talk through torch.distributed: by gloo between CPUs, by NCCL between GPUs."""

import os
from collections.abc import Sequence
from datetime import timedelta
from itertools import accumulate
from typing import Any, Self

import numpy as np
import torch
import torch.distributed as dist
from mpi4py import MPI

from strategies.base import Communicator, Refused
from strategies.comm import json_codec
from strategies.comm.node import place_on_node
from strategies.comm.rendezvous import rendezvous
from strategies.comm.torch_buffers import Buffer, Request, as_vector, copy_into
from strategies.launchers import check_launch

BACKENDS = ("gloo", "nccl")
TIMEOUT = 300.0
TORCHRUN = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Environment variables that torchrun sets for every process that it starts."""


class TorchComm(Communicator):
    """A communicator with the methods of mpi4py that strategies call, names and meaning included.

    Strategies that need what only MPI has do not run on it: shared windows (SharedDataParallel,
    Hogwild), and receiving from any rank (ParameterServer).

        with TorchComm.world() as comm:  # under torchrun or mpiexec
            strategy = DataParallel(model, optimizer, comm)

    A buffer is a contiguous numpy array or torch tensor on any device; if the backend uses another
    device, it is copied there and back. The only reduction is MPI.SUM. Messages with tags, which
    NCCL does not have, always go by gloo.

    A communicator has process groups of its own: it neither needs nor touches the default group
    of torch.distributed. Waiting raises RuntimeError, at once if the rank has died or freed the
    communicator, else after the timeout.

    Args:
        store: where the ranks find each other, the same for all.
        rank, size: the number of this process, and how many there are.
        backend: "gloo" between CPUs; "nccl" between GPUs, of which each rank uses torch's current
            device, a different one on every rank.
        timeout: seconds that a rank waits for others.

    Raises:
        ValueError: an unknown backend, or one that this build of torch lacks.
    """

    def __init__(
        self,
        store: dist.Store,
        rank: int,
        size: int,
        backend: str = "gloo",
        timeout: float = TIMEOUT,
    ):
        _check_backend(backend)
        self._store, self._rank, self._size = store, rank, size
        self._backend, self._timeout, self._children = backend, timeout, 0
        limit = timedelta(seconds=timeout)
        self._device = torch.device("cpu")
        self._messages: Any = dist.ProcessGroupGloo(
            dist.PrefixStore("gloo", store), rank, size, limit
        )
        self._group: Any = self._messages  # for collectives
        if backend == "nccl":
            self._device = torch.device("cuda", torch.cuda.current_device())
            options = dist.ProcessGroupNCCL.Options()
            options._timeout = limit
            self._group = dist.ProcessGroupNCCL(
                dist.PrefixStore("nccl", store), rank, size, options
            )

    @classmethod
    def world(cls, backend: str = "gloo", timeout: float = TIMEOUT) -> Self:
        """Connect all processes that torchrun, or else mpiexec, has started. Collective.

        With "nccl" rank i of a node uses GPU i.

        Raises:
            ValueError: as for `TorchComm`; more ranks on a node than GPUs.
        """
        if not set(TORCHRUN) <= os.environ.keys():
            return cls.from_mpi(MPI.COMM_WORLD, backend, timeout)
        _check_backend(backend)
        rank, size = os.environ["RANK"], os.environ["WORLD_SIZE"]
        local = os.environ.get("LOCAL_RANK", rank), os.environ.get("LOCAL_WORLD_SIZE", size)
        _take_device(backend, *map(int, local))
        meeting = dist.rendezvous("env://", timeout=timedelta(seconds=timeout))
        store, number, total = next(meeting)
        return cls(store, number, total, backend, timeout)

    @classmethod
    def from_mpi(cls, comm: MPI.Intracomm, backend: str = "gloo", timeout: float = TIMEOUT) -> Self:
        """Connect the ranks of an MPI communicator, which agree by MPI where to meet. Collective.

        Raises:
            ValueError: as for `world`, on every rank.
            RuntimeError: a launcher started several processes, but each is an MPI world of its own.
        """
        check_launch(comm)
        _check_backend(backend)
        _take_device(backend, *place_on_node(comm))
        store = rendezvous(comm, timeout)
        return cls(store, comm.rank, comm.size, backend, timeout)

    @property
    def rank(self) -> int:
        return self._rank

    @property
    def size(self) -> int:
        return self._size

    def __repr__(self) -> str:
        return f"TorchComm({self._backend}, rank {self.rank} of {self.size})"

    # Communicators of these ranks.

    def Split(self, color: int = 0, key: int = 0) -> "TorchComm | MPI.Comm":
        """Connect the ranks of one color, in order of key and rank; none for MPI.UNDEFINED."""
        wishes = np.empty((self.size, 2), np.int64)
        self.Allgather(np.array([color, key], np.int64), wishes)
        self._children += 1
        if color == MPI.UNDEFINED:
            return MPI.COMM_NULL
        same = [rank for rank in range(self.size) if wishes[rank, 0] == color]
        return self._child(color, sorted(same, key=lambda rank: wishes[rank, 1]))

    def Split_type(self, *args: Any) -> None:
        raise Refused(
            "ranks only share memory through MPI: give this strategy an MPI communicator, or use "
            "DataParallel, which sends"
        )

    def Dup(self) -> "TorchComm":
        """Connect the same ranks again, so that messages of the two do not mix."""
        self._check_open()
        self._children += 1
        return self._child(0, range(self.size))

    def _child(self, color: int, members: Sequence[int]) -> "TorchComm":
        # No two communicators may meet under one name: addresses stay in the store.
        store = dist.PrefixStore(f"{self._children}/{color}", self._store)
        rank = members.index(self.rank)
        return TorchComm(store, rank, len(members), self._backend, self._timeout)

    def Free(self) -> None:
        """Close the connections. A rank that still waits for this one raises RuntimeError."""
        if self._group:
            self._group.shutdown()  # NCCL wants to be told; gloo closes as it is forgotten
            self._group = self._messages = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.Free()

    # Collectives on memory.

    def Barrier(self) -> None:
        self.Allreduce(MPI.IN_PLACE, np.zeros(1))

    def Allreduce(self, send: Any, recv: Buffer, op: MPI.Op = MPI.SUM) -> None:
        self.Iallreduce(send, recv, op).Wait()

    def Iallreduce(self, send: Any, recv: Buffer, op: MPI.Op = MPI.SUM) -> "Request":
        _check_sum(op)
        whole = as_vector(recv)
        if send is not MPI.IN_PLACE:
            copy_into(as_vector(send), whole)
        there = self._there(whole)
        return Request(self._group.allreduce(there, op=dist.ReduceOp.SUM), there, whole)

    def Reduce_scatter(
        self, send: Any, recv: Buffer, counts: Sequence[int], op: MPI.Op = MPI.SUM
    ) -> None:
        """Send every part to the rank that sums it, since torch only scatters equal parts."""
        _check_sum(op)
        whole = as_vector(recv if send is MPI.IN_PLACE else send)
        _check_counts(whole, counts, self.size)
        own = counts[self.rank]
        there = self._there(whole)
        parts = there.new_empty(self.size * own)
        self._group.alltoall_base(parts, there, [own] * self.size, list(counts)).wait()
        total = parts.view(self.size, own).sum(dim=0)
        copy_into(total, whole[:own] if send is MPI.IN_PLACE else as_vector(recv))

    def Allgather(self, send: Any, recv: Buffer) -> None:
        length = as_vector(recv).numel()
        self.Allgatherv(send, [recv, [length // self.size] * self.size])

    def Allgatherv(self, send: Any, recv: Sequence[Any]) -> None:
        """Broadcast every part from the rank that has it, since torch only gathers equal parts.

        Args:
            recv: [buffer, how many elements of it each rank sends].
        """
        buffer, counts = recv
        whole = as_vector(buffer)
        _check_counts(whole, counts, self.size)
        if send is not MPI.IN_PLACE:
            copy_into(as_vector(send), whole.split(list(counts))[self.rank])
        there = self._there(whole)
        parts = there.split(list(counts))
        works = [self._group.broadcast(part, root) for root, part in enumerate(parts)]
        for work in works:
            work.wait()
        copy_into(there, whole)

    def Bcast(self, buffer: Buffer, root: int = 0) -> None:
        whole = as_vector(buffer)
        there = self._there(whole)
        Request(self._group.broadcast(there, root), there, whole).Wait()

    # Messages between two ranks.

    def Isend(self, buffer: Buffer, dest: int, tag: int = 0) -> "Request":
        self._check_open()
        there = as_vector(buffer).cpu()
        return Request(self._messages.send([there], dest, tag), there, there)

    def Irecv(self, buffer: Buffer, source: int, tag: int = 0) -> "Request":
        self._check_open()
        whole = as_vector(buffer)
        there = whole.cpu()
        return Request(self._messages.recv([there], source, tag), there, whole)

    # Collectives on small objects, encoded by `json_codec`.

    def allgather(self, value: Any) -> list[Any]:
        data = np.frombuffer(bytearray(json_codec.encode(value)), np.uint8)
        lengths = np.empty(self.size, np.int64)
        self.Allgather(np.array([len(data)]), lengths)
        whole = np.empty(lengths.sum(), np.uint8)
        self.Allgatherv(data, [whole, lengths.tolist()])
        ends = list(accumulate(lengths.tolist()))
        return [json_codec.decode(part.tobytes()) for part in np.split(whole, ends[:-1])]

    def bcast(self, value: Any, root: int = 0) -> Any:
        data = np.empty(0, np.uint8)
        if self.rank == root:
            data = np.frombuffer(bytearray(json_codec.encode(value)), np.uint8)
        length = np.array([len(data)])
        self.Bcast(length, root)
        if self.rank != root:
            data = np.empty(length[0], np.uint8)
        self.Bcast(data, root)
        return json_codec.decode(data.tobytes())

    def _there(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the tensor on the device of the collectives: the same one if it is there."""
        self._check_open()
        return tensor.to(self._device)

    def _check_open(self) -> None:
        if not self._group:
            raise ValueError("this communicator has been freed")


def _check_backend(backend: str) -> None:
    if backend not in BACKENDS:
        raise ValueError(f"backend={backend!r}: expected one of {', '.join(BACKENDS)}")
    if not getattr(dist, f"is_{backend}_available")():
        raise ValueError(f"backend={backend!r}: torch {torch.__version__} is built without it")


def _take_device(backend: str, local: int, on_node: int) -> None:
    """Make GPU `local`, of the `on_node` ranks of this node, torch's current device."""
    if backend != "nccl":
        return
    gpus = torch.cuda.device_count()
    if on_node > gpus:
        raise ValueError(
            f"{on_node} ranks and {gpus} GPUs on this node: NCCL needs a GPU for each rank; start "
            "fewer, or use gloo"
        )
    torch.cuda.set_device(local)


def _check_sum(op: MPI.Op) -> None:
    if op != MPI.SUM:
        raise ValueError("a TorchComm only reduces by MPI.SUM")


def _check_counts(whole: torch.Tensor, counts: Sequence[int], size: int) -> None:
    if len(counts) != size or sum(counts) != whole.numel():
        raise ValueError(
            f"counts of {list(counts)} and a buffer of {whole.numel()} elements: expected one "
            f"count for each of {size} ranks, and as many elements as they add up to"
        )
