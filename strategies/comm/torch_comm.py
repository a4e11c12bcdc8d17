"""Communication besides MPI: torch.distributed, by gloo between CPUs and by NCCL between GPUs."""

import os
from collections.abc import Sequence
from datetime import timedelta
from itertools import accumulate
from typing import Any, Self

import numpy as np
import torch
import torch.distributed as dist
from mpi4py import MPI
from numpy.typing import NDArray

from strategies.base import Communicator, Refused
from strategies.comm import json_codec
from strategies.comm.node import place_on_node
from strategies.comm.rendezvous import rendezvous

Buffer = NDArray | torch.Tensor
BACKENDS = ("gloo", "nccl")
TIMEOUT = 300.0
TORCHRUN = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What torchrun tells every process that it starts, in the environment."""


class TorchComm(Communicator):
    """The verbs of an MPI communicator that strategies use, under mpi4py's names and meaning.

    Any strategy runs on it but those that need what MPI alone has: shared windows
    (SharedDataParallel, Hogwild), and messages from whoever is first (ParameterServer).

        with TorchComm.world() as comm:  # under torchrun or mpiexec
            strategy = DataParallel(model, optimizer, comm)

    A buffer is a numpy array or a torch tensor, contiguous, on any device: what is not on the
    backend's is copied there and back. The only reduction is MPI.SUM. Messages with tags, which
    NCCL does not have, always go by gloo.

    A communicator has process groups of its own: it neither needs nor touches the default group
    of torch.distributed. To wait for a rank that has died, or freed the communicator, is a
    RuntimeError at once; for one that does not come, after the timeout.

    Args:
        store: where the ranks find each other, the same for all.
        rank, size: of this process, and of all of them.
        backend: "gloo", between CPUs; or "nccl", between the GPUs that torch has as its current
            device, another one on every rank.
        timeout: seconds that a rank waits for others.

    Raises:
        ValueError: a backend that is none, or that this build of torch lacks.
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
        self._group: Any = self._messages  # of the collectives
        if backend == "nccl":
            self._device = torch.device("cuda", torch.cuda.current_device())
            options = dist.ProcessGroupNCCL.Options()
            options._timeout = limit
            self._group = dist.ProcessGroupNCCL(
                dist.PrefixStore("nccl", store), rank, size, options
            )

    @classmethod
    def world(cls, backend: str = "gloo", timeout: float = TIMEOUT) -> Self:
        """All processes that torchrun, or else mpiexec, has started. Collective.

        With "nccl" each takes the GPU of its number on the node.

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
        """The ranks of an MPI communicator, which tells them where to meet. Collective.

        Raises:
            ValueError: as for `world`, on every rank.
        """
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
        """The ranks of one color, in the order of key and rank; COMM_NULL for MPI.UNDEFINED."""
        wishes = np.empty((self.size, 2), np.int64)
        self.Allgather(np.array([color, key], np.int64), wishes)
        self._children += 1
        if color == MPI.UNDEFINED:
            return MPI.COMM_NULL
        same = [rank for rank in range(self.size) if wishes[rank, 0] == color]
        return self._child(color, sorted(same, key=lambda rank: wishes[rank, 1]))

    def Split_type(self, *args: Any) -> None:
        raise Refused(
            "ranks share memory through MPI alone: give this strategy an MPI communicator, or use "
            "DataParallel, which sends"
        )

    def Dup(self) -> "TorchComm":
        """The same ranks, of whose messages these know nothing."""
        self._check_open()
        self._children += 1
        return self._child(0, range(self.size))

    def _child(self, color: int, members: Sequence[int]) -> "TorchComm":
        # No two communicators may meet under one name: addresses stay in the store.
        store = dist.PrefixStore(f"{self._children}/{color}", self._store)
        rank = members.index(self.rank)
        return TorchComm(store, rank, len(members), self._backend, self._timeout)

    def Free(self) -> None:
        """Close the connections, with the last request. Who still waits for this rank fails."""
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
        whole = _flat(recv)
        if send is not MPI.IN_PLACE:
            _copy(_flat(send), whole)
        there = self._there(whole)
        return Request(self._group.allreduce(there, op=dist.ReduceOp.SUM), there, whole)

    def Reduce_scatter(
        self, send: Any, recv: Buffer, counts: Sequence[int], op: MPI.Op = MPI.SUM
    ) -> None:
        """Every part goes to the rank that sums it: torch itself scatters equal parts alone."""
        _check_sum(op)
        whole = _flat(recv if send is MPI.IN_PLACE else send)
        _check_counts(whole, counts, self.size)
        own = counts[self.rank]
        there = self._there(whole)
        parts = there.new_empty(self.size * own)
        self._group.alltoall_base(parts, there, [own] * self.size, list(counts)).wait()
        total = parts.view(self.size, own).sum(dim=0)
        _copy(total, whole[:own] if send is MPI.IN_PLACE else _flat(recv))

    def Allgather(self, send: Any, recv: Buffer) -> None:
        length = _flat(recv).numel()
        self.Allgatherv(send, [recv, [length // self.size] * self.size])

    def Allgatherv(self, send: Any, recv: Sequence[Any]) -> None:
        """Every part is broadcast by the rank that has it: torch itself gathers equal parts alone.

        Args:
            recv: [buffer, how many elements of it each rank sends].
        """
        buffer, counts = recv
        whole = _flat(buffer)
        _check_counts(whole, counts, self.size)
        if send is not MPI.IN_PLACE:
            _copy(_flat(send), whole.split(list(counts))[self.rank])
        there = self._there(whole)
        parts = there.split(list(counts))
        works = [self._group.broadcast(part, root) for root, part in enumerate(parts)]
        for work in works:
            work.wait()
        _copy(there, whole)

    def Bcast(self, buffer: Buffer, root: int = 0) -> None:
        whole = _flat(buffer)
        there = self._there(whole)
        Request(self._group.broadcast(there, root), there, whole).Wait()

    # Messages between two ranks.

    def Isend(self, buffer: Buffer, dest: int, tag: int = 0) -> "Request":
        self._check_open()
        there = _flat(buffer).cpu()
        return Request(self._messages.send([there], dest, tag), there, there)

    def Irecv(self, buffer: Buffer, source: int, tag: int = 0) -> "Request":
        self._check_open()
        whole = _flat(buffer)
        there = whole.cpu()
        return Request(self._messages.recv([there], source, tag), there, whole)

    # Collectives on small objects, as `small_objects` sends them.

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
        """The tensor on the device of the collectives: itself, if it is there."""
        self._check_open()
        return tensor.to(self._device)

    def _check_open(self) -> None:
        if not self._group:
            raise ValueError("this communicator has been freed")


class Request:
    """A transfer under way, which `Wait` or `Test` finds complete or failed.

    gloo tells of a message only when it is waited for: until then `Test` says False.

    Args:
        work: what torch has made of it.
        there, here: the tensor that is sent or received, and where that is to be in the end.
    """

    def __init__(self, work: dist.Work, there: torch.Tensor, here: torch.Tensor):
        # Given up as it completes: gloo would wait for a message a second time, in vain.
        self._transfer: tuple[dist.Work, torch.Tensor, torch.Tensor] | None = work, there, here

    def Wait(self) -> None:
        if self._transfer:
            work, there, here = self._transfer
            self._transfer = None
            work.wait()
            _copy(there, here)

    def Test(self) -> bool:
        if self._transfer and not self._transfer[0].is_completed():
            return False
        self.Wait()  # raises what went wrong
        return True


def _check_backend(backend: str) -> None:
    if backend not in BACKENDS:
        raise ValueError(f"backend={backend!r}: expected one of {', '.join(BACKENDS)}")
    if not getattr(dist, f"is_{backend}_available")():
        raise ValueError(f"backend={backend!r}: torch {torch.__version__} is built without it")


def _take_device(backend: str, local: int, on_node: int) -> None:
    """Make the GPU of this rank's number on its node torch's current device."""
    if backend != "nccl":
        return
    gpus = torch.cuda.device_count()
    if on_node > gpus:
        raise ValueError(
            f"{on_node} ranks and {gpus} GPUs on this node: NCCL takes a GPU for each rank; start "
            "fewer, or use gloo"
        )
    torch.cuda.set_device(local)


def _check_sum(op: MPI.Op) -> None:
    if op != MPI.SUM:
        raise ValueError("a TorchComm reduces by MPI.SUM alone")


def _check_counts(whole: torch.Tensor, counts: Sequence[int], size: int) -> None:
    if len(counts) != size or sum(counts) != whole.numel():
        raise ValueError(
            f"counts of {list(counts)} and a buffer of {whole.numel()} elements: expected one "
            f"count for each of {size} ranks, and as many elements as they add up to"
        )


def _flat(buffer: Buffer) -> torch.Tensor:
    """The memory of a buffer as a vector: no copy."""
    if isinstance(buffer, np.ndarray):
        # Said of read-only memory by torch itself in a warning alone.
        usable = buffer.flags.c_contiguous and buffer.flags.writeable
        tensor = torch.from_numpy(buffer) if usable else None
    else:
        tensor = buffer.detach() if buffer.is_contiguous() else None
    if tensor is None:
        raise ValueError("expected a buffer in contiguous memory that may be written to")
    return tensor.view(-1)


def _copy(source: torch.Tensor, target: torch.Tensor) -> None:
    """What is sent to oneself, or came by way of another device."""
    if source.shape != target.shape or source.dtype != target.dtype:
        raise ValueError(
            f"{source.numel()} elements of {source.dtype} do not fit into {target.numel()} of "
            f"{target.dtype}"
        )
    if source is not target:
        target.copy_(source)
