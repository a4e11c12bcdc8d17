"""A function of (outputs, targets) as a loss, whose way of reducing rows is found by trial."""

import copy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nn.loss import Loss

ADVICE = (
    "return one number for each row, or give a loss of torch.nn, whose ignore_index and weights "
    "are known"
)


def as_tensor(array: NDArray) -> torch.Tensor:
    """Return an array as a tensor, in the same memory if torch can have it."""
    # Torch has no read-only tensors and no negative strides.
    if not array.flags.writeable or min(array.strides, default=0) < 0:
        array = array.copy()
    return torch.from_numpy(array)


def as_target(targets: NDArray, dtype: np.dtype) -> torch.Tensor:
    """Return a copy of targets as a tensor: integers as int64, floats as `dtype`, bools as bools.

    Raises:
        ValueError: a number is too large for int64.
    """
    if targets.dtype.kind == "u" and targets.size and targets.max() > np.iinfo(np.int64).max:
        raise ValueError(f"a target is {targets.max()}: expected numbers that int64 can hold")
    kind: Any = {"i": np.int64, "u": np.int64, "f": dtype}.get(targets.dtype.kind, targets.dtype)
    return torch.from_numpy(np.array(targets, kind, order="C"))


def tokens_as_rows(targets: NDArray, outputs: int) -> NDArray:
    """Return targets (rows, length, ...) as (rows * length, ...) if so many outputs are given."""
    tokens = targets.ndim > 1 and len(targets) != outputs
    if tokens and len(targets) * targets.shape[1] == outputs:
        return targets.reshape(-1, *targets.shape[2:])
    return targets


class FunctionLoss(Loss):
    """A loss of a user's own: a function, or module without parameters, of (outputs, targets).

    It is given tensors: outputs with the rows first, and targets, integers as int64, floats in the
    dtype of the outputs. It may return

    - one number for each row, or a tensor with the rows first. Their mean over the global batch is
      the loss. Row weights multiply the numbers, and the mean divides by their sum.
    - one number that is the mean over the rows, or their sum. Which, is found by trial.

    A function of another kind, e.g. the mean over valid targets alone, a weighted mean, or a loss
    of pairs of rows, cannot be put together from parts of the batch, and is refused. As this may
    depend on targets that come late, every call is checked; see `_Trial`.

    Raises:
        ValueError: in training, if the function is refused, or row weights come with a function
            that returns one number.
    """

    def __init__(self, function: Any):
        module = isinstance(function, torch.nn.Module)
        self.function = copy.deepcopy(function) if module else function
        self._calls = 0

    def count(self, targets, weights=None):
        """As `Loss.count`: rows, or their weights. A call knows how many numbers a row has."""
        return len(targets) if weights is None else float(weights.sum())

    def __call__(self, outputs, targets, count, weights=None):
        if not count or not len(outputs):
            return 0.0, np.zeros_like(outputs)
        y = as_target(tokens_as_rows(targets, len(outputs)), outputs.dtype)
        if len(y) != len(outputs):
            raise ValueError(
                f"outputs of shape {outputs.shape} and targets of shape {targets.shape}: "
                "expected a target for each row of outputs"
            )
        x = as_tensor(outputs)
        function = self._in(x.dtype)
        trial = _Trial(function, x, y, self._calls)
        self._calls += 1
        if trial.single and weights is not None:
            raise ValueError(
                f"weights of rows with the loss {self.function!r}, which returns one number: "
                "expected one number for each row"
            )
        fault = trial.fault()
        if fault and x.dtype != torch.float64:  # it may be rounding
            fault, trial.is_mean = self._in_float64(x, y)
        # Of outputs that are not finite the loss may be NaN, and so is the whole step.
        if fault and (x.isfinite().all() or not trial.value.isnan().any()):
            raise ValueError(f"loss {self.function!r}: {fault}; {ADVICE}")
        value, gradient = trial.value, trial.gradient
        if weights is not None:
            value, gradient = _weighted(function, x, y, weights)
        self.is_sum = bool(trial.single and not trial.is_mean)
        if self.is_sum:
            scale = 1.0
        else:
            rows = len(targets) if weights is None else len(weights)
            scale = rows / (count * (1 if trial.single else value.numel()))
        return value.sum().item() * scale, (gradient * scale).contiguous().numpy()

    def _in(self, dtype: torch.dtype) -> Any:
        """The function; a module with its buffers in `dtype`."""
        if isinstance(self.function, torch.nn.Module):
            return copy.deepcopy(self.function).to(dtype)
        return self.function

    def _in_float64(self, x: torch.Tensor, y: torch.Tensor) -> tuple[str, bool]:
        """What is wrong with the function, and whether it is a mean, found in float64."""
        y = y.double() if y.is_floating_point() else y
        try:
            trial = _Trial(self._in(torch.float64), x.double(), y, self._calls)
            return trial.fault(), trial.is_mean
        except (RuntimeError, ValueError, TypeError) as error:
            return f"rows seem not to add up, and it fails in float64 ({error})", False

    def __repr__(self) -> str:
        return f"FunctionLoss({self.function!r})"


def _weighted(function, x, y, weights):
    """Numbers of rows times the weights of the rows, and the gradient of their sum."""
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        value = function(x, y)
        of_row = torch.from_numpy(np.array(weights)).to(value.dtype)
        value = value.reshape(len(of_row), -1) * of_row[:, None]
    (gradient,) = torch.autograd.grad(value.sum(), x)
    return value.detach(), gradient


class _Trial:
    """A call of a function on rows, and checks that rows contribute alike and by themselves.

    Let f be a mean over rows, each with a weight that may depend on its target (0 if it is
    ignored). The gradient of f with respect to one row then has the weight of this row, divided by
    the sum of the weights of all. So one row tells about all others: the gradient times the number
    of rows is that of the row by itself only if the rows weigh as much as it, on average. And all
    ranks agree about weights if the row weighs as much as one with the targets 1, which is the same
    row everywhere. To this come the values of two random halves, which must add up.
    """

    def __init__(self, function: Any, x: torch.Tensor, y: torch.Tensor, seed: int):
        self._function, self._x, self._y, self._seed = function, x, y, seed
        # What rounding explains, and less than one row that does not count among all of them.
        rounding = 1e-9 if x.dtype == torch.float64 else 64 * torch.finfo(x.dtype).eps
        self._tolerance = min(rounding, 0.25 / len(x))
        self.value, self.gradient = self._run(x, y)
        self.single = self.value.ndim == 0
        if not self.single and len(self.value) != len(x):
            raise ValueError(
                f"loss {function!r} makes a tensor of shape {tuple(self.value.shape)} of {len(x)} "
                "rows: expected one number, or one or more for each row"
            )
        self.is_mean = False

    def _run(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The value of the function, and the gradient of its sum with respect to x."""
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            value = self._function(x, y.clone())
            if not isinstance(value, torch.Tensor) or not value.is_floating_point():
                raise ValueError(f"loss {self._function!r} makes {value!r:.80}: expected a tensor")
            total = value.sum()
        if not total.requires_grad:
            return value, torch.zeros_like(x)
        (gradient,) = torch.autograd.grad(total, x, allow_unused=True)
        return value.detach(), torch.zeros_like(x) if gradient is None else gradient

    def fault(self) -> str:
        """What is wrong with the function, in a clause; "" if nothing is. Sets `is_mean`."""
        if self.value.isnan().any():
            return "it is NaN, as a mean over no valid target is"
        size = self.gradient.abs().flatten(1).amax(dim=1)
        j = int(size.argmax())
        if not size[j].isfinite():
            return ""  # so is the gradient of the step
        x, y = self._x[j : j + 1], self._y[j : j + 1]
        one, alone = self._run(x, y)
        two, twice = self._run(torch.cat([x, x]), torch.cat([y, y]))
        if self.single:
            mean = self._same(two, one) and self._same(2 * twice[0], alone[0])
            added = self._same(two, 2 * one) and self._same(twice[0], alone[0])
            if mean == added and size[j]:
                return "it is neither the mean over the rows nor their sum"
            self.is_mean = mean
        if not size[j]:
            return self._fault_of_values()
        scale = len(self._x) if self.is_mean else 1
        if not self._same(self.gradient[j] * scale, alone[0]):
            return "rows weigh differently or meet, e.g. because some targets do not count"
        _, beside = self._run(torch.cat([x, x]), torch.cat([y, self._reference(x, y)]))
        if not self._same(beside[0] * (2 if self.is_mean else 1), alone[0]):
            return "the weight of a row depends on its target, or on other rows"
        return self._fault_of_halves()

    def _reference(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Targets for a row that are the same on every rank: ones, or zeros where 1 is no class."""
        ones = torch.ones_like(y)
        try:
            self._run(x, ones)
        except (RuntimeError, IndexError, ValueError):
            return torch.zeros_like(y)
        return ones

    def _total(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The loss of rows as a sum."""
        with torch.no_grad():
            return self._function(x, y.clone()).sum() * (len(x) if self.is_mean else 1)

    def _fault_of_halves(self) -> str:
        """Compare with the values of two random halves of the rows."""
        n = len(self._x)
        if n < 2:
            return ""
        order = torch.from_numpy(np.random.default_rng(self._seed).permutation(n))
        halves = [
            self._total(self._x[of], self._y[of]) for of in (order[: n // 2], order[n // 2 :])
        ]
        return self._fault_of_parts(halves)

    def _fault_of_values(self) -> str:
        """Compare with the values of all rows, as there is no gradient that would tell more."""
        return self._fault_of_parts(
            [self._total(x[None], y[None]) for x, y in zip(self._x, self._y)]
        )

    def _fault_of_parts(self, parts: list[torch.Tensor]) -> str:
        whole = self.value.sum() * (len(self._x) if self.is_mean else 1)
        if self._same(torch.stack([whole, *parts]).sum(), 2 * whole):
            return ""
        return "the losses of parts of the batch do not add up to that of the whole"

    def _same(self, a: torch.Tensor, b: torch.Tensor) -> bool:
        """Whether a and b agree up to rounding. NaN agrees with nothing."""
        return bool(torch.dist(a, b) <= self._tolerance * b.norm())
