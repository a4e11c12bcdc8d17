"""How others train in parallel, behind the contract of a strategy: proven and measured like ours.

Each is torch's own way, as its documentation has it: its modules, its autograd, its optimizers,
its communication over gloo. Of ours there is the outside alone: `step` takes the global batch,
`weights` returns all parameters in sequential order. A step also sums the loss, over MPI, since
that is in the contract; it takes microseconds.

    pytest tests bench --model file.py:net --strategy bench/peers/torch_peers.py:GPipe

Gradients are averaged over ranks by torch, so each rank's loss is its sum over rows, times the
number of ranks, over the rows of the whole batch: shards may then be uneven, or empty.
"""

import copy
import socket
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from mpi4py import MPI
from numpy.typing import NDArray
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe
from torch.nn.functional import cross_entropy

from nn import SGD, AdaGrad, Adam, Batch
from nn.layers.dropout import rows_of
from nn.model import as_rows
from nn.torch.dropout import Dropout
from nn.torch.model import TorchModel
from strategies.base import Refused, Strategy
from strategies.sharding import cuts as stage_cuts

TIMEOUT = timedelta(seconds=60)
"""That a rank waits for others, who may have failed."""


NO_LABEL = -100
"""What torch's cross-entropy leaves out."""


class Peer(Strategy):
    """A copy of the model's module, trained by torch alone. By itself: a plain loop.

    Args:
        model: what to begin with; not trained itself.
        optimizer: SGD, Adam or AdaGrad, whose settings torch's own are given.

    Raises:
        TypeError: a model without torch modules, or another optimizer.
        Refused: a model with mixed precision, or on another device than the CPU, where gloo is.
    """

    model: TorchModel
    module: Any  # a Sequential, or what torch makes of it
    runs_silent = False  # what gloo sends cannot be left out

    def __init__(self, model: TorchModel, optimizer: Any, comm: MPI.Intracomm | None = None):
        if not isinstance(model, TorchModel):
            raise TypeError(f"model is {type(model).__name__}: torch expected a TorchModel")
        if model.compute:
            raise Refused(f"a model that computes in {model.compute}: expected one without")
        if elsewhere := {str(w.device) for w in model.module.parameters()} - {"cpu"}:
            raise Refused(f"a model on {elsewhere.pop()}: expected one on the CPU, where gloo is")
        super().__init__(model, optimizer, comm or MPI.COMM_SELF)
        self.module = copy.deepcopy(model.module)
        self._torch_optimizer = torch_optimizer(optimizer, self._trained())

    def _trained(self) -> list[torch.nn.Parameter]:
        """The parameters that this rank updates."""
        return list(self.module.parameters())

    def step(self, batch: Batch) -> float:
        self.take_dropout_clock()
        if callable(self.optimizer.lr):
            for group in self._torch_optimizer.param_groups:
                group["lr"] = self.optimizer.lr(self.optimizer.steps)
        self._torch_optimizer.zero_grad()
        loss = np.array([self.backward(batch)], np.float64)
        self._torch_optimizer.step()
        self.optimizer.steps += 1  # not before the forward: dropout draws its masks by it
        if self.comm.size > 1:
            self.comm.Allreduce(MPI.IN_PLACE, loss, MPI.SUM)
        return float(loss[0])

    def backward(self, batch: Batch) -> float:
        """Give every parameter its gradient; this rank's share of the loss."""
        ranks = self.comm.size
        own = batch.shard(self.comm.rank, ranks)
        x, y = self._tensors(own)
        with rows_of(own):
            logits = self.module(x)
        loss = cross_entropy(logits, y, reduction="sum") / batch.global_count
        (loss * ranks).backward()
        return loss.item()

    def _tensors(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        x = as_rows(batch.x, self.model.input_shape, self.model.dtype)
        if not x.flags.writeable:
            x = x.copy()  # torch has no read-only tensors
        return torch.from_numpy(x), torch.from_numpy(batch.y.astype(np.int64))

    def weights(self) -> NDArray:
        return _flat([weight.detach() for weight in self.module.parameters()], self.model.dtype)


class _Gloo(Peer):
    """Of several ranks, which meet in torch's default process group."""

    def __init__(self, model: TorchModel, optimizer: Any, comm: MPI.Intracomm):
        _enter(comm)
        try:
            super().__init__(model, optimizer, comm)
        except BaseException:
            _leave()
            raise

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            _leave()


class DistributedDataParallel(_Gloo):
    """torch.nn.parallel.DistributedDataParallel: buckets of gradients, summed during backward."""

    def _trained(self):
        weights = super()._trained()
        self.module = torch.nn.parallel.DistributedDataParallel(
            self.module, gradient_as_bucket_view=True
        )
        return weights

    def close(self) -> None:
        # The reducer must let go of the process group before Python does. Its destructor, were it
        # the last to hold it, would wait under the GIL for gloo's threads, and one of them may
        # wait for the GIL to forget the last step (pytorch/pytorch#56297); Python's releases it.
        if not self.closed:
            self.module = self.module.module
        super().close()


class FullyShardedDataParallel(_Gloo):
    """torch.distributed.fsdp.fully_shard (FSDP 2), of the whole module as one unit."""

    def _trained(self):
        mesh = DeviceMesh("cpu", torch.arange(self.comm.size))
        fully_shard(self.module, mesh=mesh)
        return super()._trained()

    def weights(self):
        whole = [weight.full_tensor().detach() for weight in self.module.parameters()]
        return _flat(whole, self.model.dtype)


class GPipe(_Gloo):
    """torch.distributed.pipelining, on the stages that our own Pipeline would choose.

    Its micro-batches have one size, and are at least as many as stages: batches that do not divide
    are filled up with rows that have no label, and so no loss.

    Raises:
        Refused: a net with dropout, whose masks belong to rows: torch does not say which of them
            a micro-batch holds.
    """

    schedule: Callable[..., Any] = ScheduleGPipe
    micro_batches = 4

    def _trained(self):
        if any(isinstance(module, Dropout) for module in self.module.modules()):
            raise Refused(f"a net with dropout: {type(self).__name__} expected one without")
        rank, ranks = self.comm.rank, self.comm.size
        bounds = stage_cuts.choose(self.model, ranks, "auto", self.comm)
        self._lo, self._hi = bounds[rank], bounds[rank + 1]
        self.module = self.module[self._lo : self._hi]
        self._schedules: dict[int, Any] = {}
        self._parts = max(self.micro_batches, ranks)
        return super()._trained()

    def backward(self, batch: Batch) -> float:
        rows, labels = len(batch), batch.global_count // len(batch)  # a row of tokens has many
        if rows not in self._schedules:
            self._schedules[rows] = self._schedule(rows, labels)
        schedule = self._schedules[rows]
        losses: list[torch.Tensor] = []
        first, last = self.comm.rank == 0, self.comm.rank == self.comm.size - 1
        x, y = self._tensors(batch)
        y = y.view(rows, labels)
        if more := -rows % self._parts:
            x = torch.cat([x, x.new_zeros(more, *x.shape[1:])])
            y = torch.cat([y, y.new_full((more, labels), NO_LABEL)])
        schedule.step(
            *([x] if first else []),
            target=y if last else None,
            losses=losses if last else None,
            return_outputs=False,
        )
        return sum(loss.item() for loss in losses)

    def _schedule(self, rows: int, labels: int) -> Any:
        each = -(-rows // self._parts)
        dtype = getattr(torch, str(self.model.dtype))
        entering, leaving = (
            torch.empty(each, *self.model.row_shape(at), dtype=dtype, requires_grad=at > 0)
            for at in (self._lo, self._hi)
        )
        stage = PipelineStage(
            self.module,
            self.comm.rank,
            self.comm.size,
            torch.device("cpu"),
            input_args=entering,
            output_args=leaving,
        )

        def loss(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
            return cross_entropy(logits, wanted.flatten(), reduction="sum") / (rows * labels)

        return type(self).schedule(stage, self._parts, loss_fn=loss, scale_grads=False)

    def weights(self):
        whole = np.zeros(self.length, self.model.dtype)
        whole[self.model.offsets[self._lo] : self.model.offsets[self._hi]] = super().weights()
        self.comm.Allreduce(MPI.IN_PLACE, whole, MPI.SUM)
        return whole


class OneFOneB(GPipe):
    """torch.distributed.pipelining with its schedule 1F1B."""

    schedule = Schedule1F1B


PIPELINES = (GPipe, OneFOneB)
PEERS = (DistributedDataParallel, FullyShardedDataParallel, *PIPELINES)


def torch_optimizer(ours: Any, weights: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """torch's optimizer of the same formula and settings; its learning rate as at the first step.

    Raises:
        TypeError: there is none.
    """
    if type(ours) not in (SGD, Adam, AdaGrad):
        raise TypeError(f"optimizer is {type(ours).__name__}: expected nn.SGD, Adam or AdaGrad")
    lr = ours.lr(0) if callable(ours.lr) else ours.lr
    groups = [{"params": weights}]  # may be empty, as torch refuses a bare list to be
    if type(ours) is SGD:
        return torch.optim.SGD(
            groups,
            lr,
            momentum=ours.momentum,
            weight_decay=ours.weight_decay,
            nesterov=ours.nesterov,
        )
    if type(ours) is Adam:
        return torch.optim.Adam(groups, lr, ours.betas, ours.eps, ours.weight_decay)
    return torch.optim.Adagrad(groups, lr, eps=ours.eps, weight_decay=ours.weight_decay)


def _flat(parts: list[torch.Tensor], dtype: Any) -> NDArray:
    return np.concatenate([np.empty(0, dtype), *(part.numpy().ravel() for part in parts)])


# The default process group of torch, which all peers of this process share while any is open.

_ranks = MPI.GROUP_NULL
_open = 0


def _enter(comm: MPI.Intracomm) -> None:
    """Have torch's default process group be of these ranks. Collective."""
    global _ranks, _open
    group = comm.Get_group()
    same = dist.is_initialized() and MPI.Group.Compare(_ranks, group) == MPI.IDENT
    if comm.allreduce(same, MPI.LAND):
        _open += 1
        return
    if dist.is_initialized():
        dist.destroy_process_group()  # of ranks that failed, and have not closed it
    node = comm.Split_type(MPI.COMM_TYPE_SHARED)
    one_node = comm.allreduce(node.size == comm.size, MPI.LAND)
    node.Free()
    host = comm.bcast("localhost" if one_node else socket.gethostname())
    # Any free port, of which the others hear by MPI: launches side by side cannot clash.
    store, port = None, 0
    if comm.rank == 0:
        store = _store(host, 0, comm)
        port = store.port
    port = comm.bcast(port)
    dist.init_process_group(
        "gloo",
        store=store or _store(host, port, comm),
        rank=comm.rank,
        world_size=comm.size,
        timeout=TIMEOUT,
    )
    _ranks, _open = group, 1


def _store(host: str, port: int, comm: MPI.Intracomm) -> dist.TCPStore:
    return dist.TCPStore(
        host, port, is_master=comm.rank == 0, wait_for_workers=False, timeout=TIMEOUT
    )


def _leave() -> None:
    global _open
    _open -= 1
    if not _open and dist.is_initialized():
        dist.destroy_process_group()
