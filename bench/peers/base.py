"""`Peer`: a plain training loop of torch, and what torch's parallel ones share with it."""

import copy
from typing import Any

import numpy as np
import torch
from mpi4py import MPI
from numpy.typing import NDArray
from torch.nn.functional import cross_entropy

from bench.peers import process_group
from nn import SGD, AdaGrad, Adam, AdamW, Batch
from nn.inputs import as_rows, has_several
from nn.layers.dropout import rows_of
from nn.loss import CrossEntropy
from nn.own_methods import own_methods
from nn.torch import TorchModel
from strategies.base import Refused, Strategy


class Peer(Strategy):
    """A copy of the model's module, trained by torch alone: here by a plain loop on one rank.

    Args:
        model: the model to start from; it is not trained itself.
        optimizer: SGD, Adam, AdamW or AdaGrad; torch's own optimizer gets its settings.

    Raises:
        TypeError: the model has no torch modules, or the optimizer is another one.
        Refused: the model has mixed precision, another loss than cross-entropy, or frozen
            parameters; it is not on the CPU, where gloo works, or replaces methods of TorchModel;
            or the optimizer clips by value, has groups, or clips by a norm where stages have parts
            of it.
    """

    model: TorchModel
    module: Any  # a Sequential, or what torch makes of it
    knows_norm = True
    """Whether torch's clipping finds the norm of the whole gradient here."""

    runs_silent = False  # gloo sends the messages, so they cannot be left out

    def __init__(self, model: TorchModel, optimizer: Any, comm: MPI.Intracomm | None = None):
        if not isinstance(model, TorchModel):
            raise TypeError(f"model is {type(model).__name__}: torch expected a TorchModel")
        if names := [name for name in own_methods(model) if name != "predict"]:
            raise Refused(
                f"the model replaces {', '.join(names)} of TorchModel: torch trains its module, "
                "without these"
            )
        if model.compute:
            raise Refused(f"a model that computes in {model.compute}: expected one without")
        if elsewhere := {str(w.device) for w in model.module.parameters()} - {"cpu"}:
            raise Refused(f"a model on {elsewhere.pop()}: expected one on the CPU, where gloo is")
        if not _is_plain(model.loss):
            raise Refused(f"a model with the loss {model.loss}: expected nn.loss.CrossEntropy()")
        if not all(weight.requires_grad for weight in model.module.parameters()):
            raise Refused("a model with frozen parameters: expected one without")
        super().__init__(model, optimizer, comm or MPI.COMM_SELF)
        if getattr(optimizer, "clip_norm", None) is not None and not self.knows_norm:
            raise Refused(
                f"an optimizer with clip_norm: {type(self).__name__} knows the norm of a stage only"
            )
        self.module = copy.deepcopy(model.module)
        self._torch_optimizer = torch_optimizer(optimizer, self._trained())

    def _trained(self) -> list[torch.nn.Parameter]:
        """Prepare the module, and return the parameters that this rank updates."""
        return list(self.module.parameters())

    def step(self, batch: Batch) -> float:
        if batch.weights is not None:
            raise Refused("rows with weights: torch's cross-entropy takes none")
        self.take_dropout_clock()
        if callable(self.optimizer.lr):
            for group in self._torch_optimizer.param_groups:
                group["lr"] = self.optimizer.lr(self.optimizer.steps)
        self._torch_optimizer.zero_grad()
        loss = np.array([self.backward(batch)], np.float64)
        if self.optimizer.clip_norm is not None:
            limit, order = self.optimizer.clip_norm, self.optimizer.norm_type
            torch.nn.utils.clip_grad_norm_(self.module.parameters(), limit, order)
        self._torch_optimizer.step()
        self.optimizer.steps += 1  # after the forward: dropout draws its masks by this number
        if self.comm.size > 1:
            self.comm.Allreduce(MPI.IN_PLACE, loss, MPI.SUM)
        return float(loss[0])

    def backward(self, batch: Batch) -> float:
        """Compute the gradient of every parameter; return this rank's share of the loss.

        Torch averages gradients over ranks. The sum of the loss over this rank's rows is therefore
        divided by the count of the global batch and multiplied by the number of ranks, which is
        right for uneven and empty shards too.
        """
        ranks = self.comm.size
        own = batch.shard(self.comm.rank, ranks)
        x, y = self._tensors(own)
        with rows_of(own):
            logits = self.module(x)
        loss = cross_entropy(logits, y, reduction="sum") / batch.global_count
        (loss * ranks).backward()
        return loss.item()

    def _tensors(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        if has_several(self.model.input_shape):
            raise Refused("the model takes several inputs, and this peer passes one tensor on")
        x = as_rows(batch.x, self.model.input_shape, self.model.dtype, self.model.kinds)
        if not x.flags.writeable:
            x = x.copy()  # torch has no read-only tensors
        return torch.from_numpy(x), torch.from_numpy(batch.y.astype(np.int64))

    def weights(self) -> NDArray:
        return flat([weight.detach() for weight in self.module.parameters()], self.model.dtype)


class GlooPeer(Peer):
    """A peer of several ranks, which meet in torch's default process group. Collective."""

    def __init__(self, model: TorchModel, optimizer: Any, comm: MPI.Intracomm):
        process_group.enter(comm)
        try:
            super().__init__(model, optimizer, comm)
        except BaseException:
            process_group.leave()
            raise

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            process_group.leave()


def _is_plain(loss: Any) -> bool:
    """Whether a loss is cross-entropy with no settings, which is what the peers compute."""
    if type(loss) is not CrossEntropy or loss.label_smoothing:
        return False
    return loss.class_weights is None and loss.ignore_index is None


def torch_optimizer(ours: Any, weights: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """Make torch's optimizer of the same formula and settings, with the first learning rate.

    Raises:
        TypeError: torch has none.
        Refused: it clips by value, or has groups.
    """
    if type(ours) not in (SGD, Adam, AdamW, AdaGrad):
        raise TypeError(
            f"optimizer is {type(ours).__name__}: expected nn.SGD, Adam, AdamW or AdaGrad"
        )
    for name in ("clip_value", "groups"):
        if getattr(ours, name) is not None and getattr(ours, name) != []:
            raise Refused(f"an optimizer with {name}: the peers of torch expect one without")
    lr = ours.lr(0) if callable(ours.lr) else ours.lr
    groups = [{"params": weights}]  # torch refuses an empty list, but takes an empty group
    if type(ours) is SGD:
        return torch.optim.SGD(
            groups,
            lr,
            momentum=ours.momentum,
            weight_decay=ours.weight_decay,
            nesterov=ours.nesterov,
        )
    if isinstance(ours, Adam):
        made = torch.optim.AdamW if type(ours) is AdamW else torch.optim.Adam
        return made(groups, lr, ours.betas, ours.eps, ours.weight_decay)
    return torch.optim.Adagrad(groups, lr, eps=ours.eps, weight_decay=ours.weight_decay)


def flat(parts: list[torch.Tensor], dtype: Any) -> NDArray:
    """Join tensors into one vector."""
    return np.concatenate([np.empty(0, dtype), *(part.numpy().ravel() for part in parts)])
