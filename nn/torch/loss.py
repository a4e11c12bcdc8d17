"""The losses of torch as losses of Lockstep: a sum over rows, divided by a global count."""

import copy
import functools
import inspect
import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from nn.loss import CROSS_ENTROPY, CrossEntropy, Loss
from nn.torch.function_loss import FunctionLoss, as_target, as_tensor, tokens_as_rows
from nn.torch.modules import hooked

REDUCTIONS = ("mean", "sum", "batchmean")

PICK_CLASSES = (
    torch.nn.CrossEntropyLoss,
    torch.nn.NLLLoss,
    torch.nn.MultiMarginLoss,
    torch.nn.MultiLabelMarginLoss,
)
"""Losses whose targets are numbers of classes. Others take a target for each output."""

MODULES: dict[Any, type[torch.nn.Module]] = {
    functional.binary_cross_entropy: torch.nn.BCELoss,
    functional.binary_cross_entropy_with_logits: torch.nn.BCEWithLogitsLoss,
    functional.cross_entropy: torch.nn.CrossEntropyLoss,
    functional.hinge_embedding_loss: torch.nn.HingeEmbeddingLoss,
    functional.huber_loss: torch.nn.HuberLoss,
    functional.kl_div: torch.nn.KLDivLoss,
    functional.l1_loss: torch.nn.L1Loss,
    functional.mse_loss: torch.nn.MSELoss,
    functional.multi_margin_loss: torch.nn.MultiMarginLoss,
    functional.multilabel_margin_loss: torch.nn.MultiLabelMarginLoss,
    functional.multilabel_soft_margin_loss: torch.nn.MultiLabelSoftMarginLoss,
    functional.nll_loss: torch.nn.NLLLoss,
    functional.poisson_nll_loss: torch.nn.PoissonNLLLoss,
    functional.smooth_l1_loss: torch.nn.SmoothL1Loss,
    functional.soft_margin_loss: torch.nn.SoftMarginLoss,
}
"""The functions of torch.nn.functional that are losses, and the module that is the same loss."""


def as_loss(given: Any) -> Loss:
    """Return what a user gives as `loss=` as a Loss.

    Args:
        given: None for `nn.loss.CrossEntropy()`; a Loss, which stays as it is; a loss of torch.nn;
            a function of torch.nn.functional, or functools.partial of one with its settings; or
            another function, or module without parameters, of (outputs, targets). See `TorchLoss`
            and `FunctionLoss`.

    Raises:
        TypeError: it is none of these.
        ValueError: it has parameters, takes other arguments than outputs and targets, or has a
            reduction that gives no single number.
    """
    if given is None:
        return CROSS_ENTROPY
    if isinstance(given, Loss):
        return given
    if not callable(given) or isinstance(given, type):
        raise TypeError(
            f"loss={given!r}: expected a loss of torch.nn, such as torch.nn.MSELoss(), one of "
            "nn.loss, or a function of (outputs, targets)"
        )
    function = given.func if isinstance(given, functools.partial) else given
    if function in MODULES:
        given = _as_module(function, given)
    module = isinstance(given, torch.nn.Module)
    if module and any(True for _ in given.parameters()):
        raise ValueError(f"loss={given!r} has parameters: make them a layer of the model")
    _check_arguments(given.forward if module else given)
    if module and type(given).__module__ == "torch.nn.modules.loss" and not hooked(given):
        return TorchLoss(given)
    return FunctionLoss(given)


def _as_module(function: Any, given: Any) -> torch.nn.Module:
    """A function of torch.nn.functional, with the settings of a partial, as a module."""
    if getattr(given, "args", ()):
        raise ValueError(f"loss={given!r}: expected its settings by name, as in partial(f, p=2)")
    try:
        return MODULES[function](**getattr(given, "keywords", {}))
    except TypeError as error:
        raise ValueError(
            f"loss={given!r}: {error}; expected settings of torch.nn.{MODULES[function].__name__}"
        ) from None


def _check_arguments(function: Any) -> None:
    """Refuse a function that takes fewer or more arguments than outputs and targets.

    Raises:
        ValueError: it does.
    """
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # a function written in C
        return
    try:
        signature.bind(None, None)
    except TypeError as error:
        raise ValueError(
            f"loss of {signature}: expected a function of (outputs, targets) alone ({error})"
        ) from None


class TorchLoss(Loss):
    """A loss of torch.nn. Over the whole batch it is what torch computes, with its `reduction`.

    The module is copied, and computes the loss of each row, token, pixel or element. Their sum is
    divided by what torch's mean over the global batch divides by: the number of elements; the
    number of rows for "batchmean"; or for class numbers the sum of the class weights of the targets
    that are not `ignore_index` (-100 by default). "sum" is a sum over the global batch. If no
    target of the batch counts, loss and gradient are 0, where torch gives NaN.

    The loss is computed in the dtype of the outputs, on the CPU; class weights and float targets
    are converted to this dtype. Targets may be integers or bools where torch wants floats. Row
    weights multiply the losses of rows; the mean divides by their sum then, or for class numbers by
    the sum of the products of row and class weights.

    Outputs of tokens may be (rows * length, ...) where targets are (rows, length, ...).

    Raises:
        ValueError: the reduction is "none", which gives no single number.
    """

    def __init__(self, module: torch.nn.Module):
        if module.reduction not in REDUCTIONS:
            raise ValueError(
                f"loss with reduction={module.reduction!r}: expected one of {', '.join(REDUCTIONS)}"
            )
        self.module = copy.deepcopy(module)
        self._converted: dict[torch.dtype, torch.nn.Module] = {}
        self._mean_is_known: set[torch.dtype] = set()
        self._labels: CrossEntropy | None = None
        if isinstance(module, (torch.nn.CrossEntropyLoss, torch.nn.NLLLoss)):
            weights = None if module.weight is None else module.weight.detach().cpu().numpy()
            # It counts as torch does.
            self._labels = CrossEntropy(0.0, weights, int(module.ignore_index))
        self.is_sum = module.reduction == "sum"
        self.counts_by_shape = self._labels is None or self.is_sum

    def count(self, targets, weights=None):
        """As `Loss.count`: of class numbers what counts, and otherwise rows, or their weights.

        How many elements a row has is known only with the outputs: a call divides by that too.
        """
        if self._counts_labels(targets):
            return self._labels.count(targets, weights)
        return len(targets) if weights is None else float(weights.sum())

    def _counts_labels(self, targets: NDArray) -> bool:
        """Whether targets are class numbers of which some may not count, or weigh more."""
        return not self.counts_by_shape and targets.dtype.kind != "f"

    def __call__(self, outputs, targets, count, weights=None):
        if not count or not len(outputs):
            return 0.0, np.zeros_like(outputs)
        x = as_tensor(outputs).requires_grad_()
        y = self._target(outputs, targets)
        module = self._in(x.dtype)
        with torch.enable_grad():
            each = self._run(module, x, y)
            self._check_shapes(x, y, each)
            self._check_mean(module, x, y, each, targets)
            if weights is not None:
                of_row = torch.from_numpy(np.array(weights, outputs.dtype))
                rows = each.reshape(len(of_row), -1) * of_row[:, None]
            total = (each if weights is None else rows).sum()
            total = total / self._divisor(
                x, each, targets, count, len(targets) if weights is None else len(weights)
            )
        (gradient,) = torch.autograd.grad(total, x)
        return total.item(), gradient.contiguous().numpy()

    def _divisor(self, x, each, targets, count, rows) -> float:
        """What the sum over `each` is divided by, if the batch has `count`."""
        if self.is_sum:
            return 1
        if self._counts_labels(targets):
            return count
        return count * (len(x) if self.module.reduction == "batchmean" else each.numel()) / rows

    def _in(self, dtype: torch.dtype) -> torch.nn.Module:
        """The module that computes each loss alone, with its weights in `dtype`."""
        if dtype not in self._converted:
            module: Any = copy.deepcopy(self.module).to("cpu", dtype)
            module.reduction = "none"
            self._converted[dtype] = module
        return self._converted[dtype]

    def _target(self, outputs: NDArray, targets: NDArray) -> torch.Tensor:
        """Targets as the module takes them.

        Raises:
            ValueError: they have another shape than the outputs, or numbers that the dtype lacks.
        """
        y = tokens_as_rows(targets, len(outputs))
        if isinstance(self.module, PICK_CLASSES):
            if y.ndim == outputs.ndim == 2 and y.shape[1] == 1 and self._labels:
                y = y[:, 0]  # sequences of one token
            return as_target(y.astype(np.int64) if y.dtype.kind == "b" else y, outputs.dtype)
        if y.shape != outputs.shape:
            raise ValueError(
                f"outputs of shape {outputs.shape} and targets of shape {targets.shape}: "
                f"{self.module} expects a target for each output"
            )
        floats = y.astype(outputs.dtype)
        if y.dtype.kind in "iu" and not (floats == y).all():
            raise ValueError(f"targets have whole numbers that {outputs.dtype} cannot hold")
        return as_target(floats, outputs.dtype)

    def _run(self, module: torch.nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        try:
            return module(x, y)
        except (RuntimeError, IndexError, ValueError, TypeError) as error:
            raise ValueError(
                f"{self.module} of outputs {tuple(x.shape)}, {x.dtype}, and targets "
                f"{tuple(y.shape)}, {y.dtype}: {error}"
            ) from error

    def _check_shapes(self, x: torch.Tensor, y: torch.Tensor, each: torch.Tensor) -> None:
        """Check that each loss belongs to one row.

        Raises:
            ValueError: it does not, because of broadcasting or of rows that torch does not see.
        """
        if len(each.shape) < 1 or len(each) != len(x) or each.ndim > x.ndim:
            raise ValueError(
                f"{self.module} of outputs {tuple(x.shape)} and targets {tuple(y.shape)} makes "
                f"losses of shape {tuple(each.shape)}: expected one or more for each row"
            )
        for name, weight in self.module.named_buffers():
            if weight.ndim >= x.ndim and weight.shape[-x.ndim] != 1:
                raise ValueError(
                    f"{name} of shape {tuple(weight.shape)} has a number for each place of a row "
                    "in the batch: expected weights that are the same for every row; weights of "
                    "rows are Batch(..., weights=...)"
                )

    def _check_mean(self, module, x, y, each, targets) -> None:
        """Check once for each dtype that torch reduces as we do, as its releases may change.

        Raises:
            ValueError: it does not.
        """
        own = self.count(targets)
        if x.dtype in self._mean_is_known or not own:
            return
        reduced = copy.copy(module)
        reduced.reduction = self.module.reduction
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that KLDivLoss will change: then this finds it
            theirs = self._run(reduced, x, y)
            ours = each.sum() / self._divisor(x, each, targets, own, len(targets))
        if theirs.isfinite() and not torch.isclose(ours, theirs, rtol=1e-4):
            raise ValueError(
                f"torch's {self.module} is {theirs.item()} on rows for which we find "
                f"{ours.item()}: write the loss as a function that returns a number for each row"
            )
        self._mean_is_known.add(x.dtype)

    def check(self, targets, outputs):
        if self._labels and targets.dtype.kind != "f":
            self._labels.check(targets, outputs)

    def predict(self, outputs):
        several = isinstance(self.module, torch.nn.MultiLabelMarginLoss)
        if isinstance(self.module, PICK_CLASSES) and not several:
            return outputs.argmax(axis=1)
        if isinstance(self.module, (torch.nn.BCELoss, torch.nn.BCEWithLogitsLoss)):
            middle = 0.5 if isinstance(self.module, torch.nn.BCELoss) else 0
            return (outputs > middle).astype(np.int64)
        return outputs

    def __repr__(self) -> str:
        return f"TorchLoss({self.module})"
