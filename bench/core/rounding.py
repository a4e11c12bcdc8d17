"""How far rounding alone moves plain training: measured, so that a tolerance follows the net.

Where a gradient is nearly 0, AdaGrad and Adam divide it by its own size, and its last bits decide
how far a weight moves. No fixed number is a tolerance for that. So plain training is compared with
plain training:

1. At each step the gradient is computed again with its rows in another order and in parts, and
   with weights nudged by a unit in the last place. For each parameter the largest change is the
   *spread*. (Nudging is Monte Carlo arithmetic, Parker 1997: a backward stable computation is
   exact for slightly other data.)
2. Plain training is repeated with `MULTIPLE` times the spread added to or taken from each element
   of each gradient. A weight's *bound* is `MARGIN` times as far as it then moves: the optimizer
   itself says what it makes of rounding, element by element.

A row of a parameter without gradient in any order, such as a word that no batch holds, has no
spread. The measurement is no loophole: the change by another order is held against `growth` and
against the change by nudging, both of which a model that mixes rows exceeds; and a training of
which rounding decides many weights is refused as a proof.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nn.batch import Batch
from nn.parameters import Parameter
from strategies.base import Strategy

MULTIPLE = 4.0
"""How many times the spread of plain training a strategy's gradient may differ from it."""

MARGIN = 2.0
"""How many times as far as in the disturbed trainings a weight may move.

Where rounding decides the sign of a gradient, a few trainings do not show every path. Tried with 23
nets, 7 optimizers and right strategies, over 1,058 steps on 2 ranks with a `MULTIPLE` of 1 and 107
on 3 ranks with 4, each beyond 1e-12 (1e-5 in float32): the largest is 1.2 times as far, in both.
"""

PARTS = (8, 3)
"""Into at most how many parts rows are split; the parts are added up in a random order."""

FAMILIES = 2
"""Random choices of the signs with which the spread is added; each is tried with its opposite."""

LAMBDA = 8.0
"""Standard deviations in `growth`: a sum exceeds the bound with a probability of 2 exp(-32)."""


def unit_roundoff(model: Any) -> float:
    """Largest relative error of one operation: 2**-53 in float64, 2**-24 in float32.

    It is 2**-8 for a model that computes in bfloat16.
    """
    if getattr(model, "compute", None) == "bfloat16":
        return 2.0**-8
    return float(np.finfo(np.asarray(model.params).dtype).eps) / 2


def growth(n: int, u: float) -> float:
    """Bound the relative rounding error of a sum of n terms: lambda sqrt(n) u.

    Higham and Mary, "A new approach to probabilistic rounding error analysis" (2019), theorem 2.4,
    to first order. The bound that always holds, gamma_n = n u / (1 - n u) (Higham, "Accuracy and
    stability of numerical algorithms", 2002, lemma 3.1), says nothing in bfloat16 from 256 terms
    on.
    """
    return LAMBDA * math.sqrt(n) * u


def lengths_of_sums(parameters: Sequence[Parameter], rows: int) -> int:
    """Return how many terms are added on the way from a row to a gradient, at most."""
    return rows + sum(max(each.shape, default=1) for each in parameters)


def largest_of_each(parameters: Sequence[Parameter], vector: NDArray) -> NDArray:
    """Replace each element by the largest absolute value in its parameter."""
    largest = np.zeros_like(vector)
    for each in parameters:
        part = slice(each.start, each.stop)
        largest[part] = np.abs(vector[part]).max(initial=0)
    return largest


@dataclass(frozen=True)
class Explained:
    """What rounding explains after a step of plain training.

    Attributes:
        spread: (n,) change of each element of the gradient in another order and in parts.
        weights: (n,) largest difference of each weight.
        loss: largest difference of the loss.
        problem: why the measurement must not be believed; empty if it may.
    """

    spread: NDArray
    weights: NDArray
    loss: float
    problem: str = ""


class Rounding:
    """Measures the rounding of a training, step by step, when it is asked for.

    Args:
        oracle: plain training. It takes steps of its own here, and then has its state of before.
        start: its state before the first batch.
        batches: of its steps.
    """

    def __init__(self, oracle: Strategy, start: dict[str, NDArray], batches: Sequence[Batch]):
        self._oracle, self._batches, self.start = oracle, batches, start
        self._rng = np.random.default_rng(0)
        n, dtype = len(start["params"]), start["params"].dtype
        families = [self._rng.choice([-1, 1], n).astype(dtype) for _ in range(FAMILIES)]
        self._signs = [sign for family in families for sign in (family, -family)]
        self._plain, self._disturbed = start, [start] * len(self._signs)
        self._steps: list[Explained] = []

    def after(self, step: int) -> Explained:
        """Return what rounding explains after step number `step`, counted from 0."""
        before = self._oracle.state()
        try:
            while len(self._steps) <= step:
                self._steps.append(self._measure(self._batches[len(self._steps)]))
        finally:
            self._oracle.load_state(before)
        return self._steps[step]

    def _measure(self, batch: Batch) -> Explained:
        oracle, model = self._oracle, self._oracle.model
        oracle.load_state(self._plain)
        loss, whole = self._gradient([batch])
        others = [self._gradient(parts) for parts in self._orders(batch)]
        nudged = self._nudged(batch)
        changes = [np.abs(gradient - whole) for _, gradient in others]
        by_order = np.max([np.zeros_like(whole), *changes], axis=0)
        by_nudge = np.abs(nudged[1] - whole)
        u = unit_roundoff(model)
        spread = largest_of_each(oracle.parameters, np.maximum(by_order, by_nudge))
        spread = np.maximum(spread, largest_of_each(oracle.parameters, whole) * u)
        spread[self._without_gradient(np.abs(whole) + by_order + by_nudge)] = 0
        limit = growth(lengths_of_sums(oracle.parameters, len(batch)), u)
        problem = self._mixing(by_order, by_nudge, limit * np.abs(whole).max(initial=0))
        loss_by_order = max([0.0, *(abs(other - loss) for other, _ in others)])
        loss_by_nudge = abs(nudged[0] - loss)
        if loss_by_order > max(64 * loss_by_nudge, limit * (abs(loss) + 1)):
            problem = problem or (
                f"the loss of plain training changes by {loss_by_order:.1e} when its rows are "
                f"taken in other parts, and rounding explains {limit * (abs(loss) + 1):.1e}"
            )

        plain_loss = self._step(self._plain, batch)
        self._plain = oracle.state()
        moved, loss_moved = np.zeros_like(whole), 0.0
        for k, (state, sign) in enumerate(zip(self._disturbed, self._signs)):
            other = self._step(state, batch, sign * (MULTIPLE * spread).astype(whole.dtype))
            self._disturbed[k] = oracle.state()
            loss_moved = max(loss_moved, abs(other - plain_loss))
            np.maximum(moved, np.abs(oracle.weights() - self._plain["params"]), out=moved)
        scale = np.abs(self._plain["params"]).max(initial=0)
        undecided = np.mean(moved > math.sqrt(u) * scale)
        if undecided > 1 / 4:
            problem = problem or (
                f"rounding alone decides {undecided:.0%} of the weights of plain training, so it "
                "shows no difference between right and wrong: take fewer steps, a lower learning "
                "rate or a larger eps of the optimizer"
            )
        explained = max(MULTIPLE * max(loss_by_order, loss_by_nudge), MARGIN * loss_moved)
        return Explained(spread, MARGIN * moved, explained, problem)

    def _without_gradient(self, size: NDArray) -> NDArray[np.bool_]:
        """Tell which elements lie in a row of their parameter that has no gradient in any order.

        A single 0 may be chance: the gradient of a key's bias is all rounding.
        """
        without = np.zeros(len(size), bool)
        for each in self._oracle.parameters:
            part = slice(each.start, each.stop)
            rows = each.shape[0] if len(each.shape) > 1 else 1
            empty = ~size[part].reshape(rows, -1).any(axis=1)
            without[part] = np.repeat(empty, each.size // rows)
        return without

    def _step(self, state: dict[str, NDArray], batch: Batch, extra: Any = 0) -> float:
        """Take the step of a training from `state`, with `extra` added to the gradient."""
        oracle = self._oracle
        oracle.load_state(state)
        oracle.take_dropout_clock()
        loss = oracle.reduce(oracle.gradients(batch))
        oracle.model.grads[:] += extra
        oracle.update()
        return float(loss)

    def _gradient(self, parts: Sequence[Batch]) -> tuple[float, NDArray]:
        """Return the loss and the gradient of rows that are given in parts, one after another."""
        model, loss = self._oracle.model, 0.0
        self._oracle.take_dropout_clock()
        for i, part in enumerate(parts):
            loss += float(model.gradients(part, add=i > 0))
        return loss, np.array(model.grads)

    def _orders(self, batch: Batch) -> Iterator[list[Batch]]:
        if self._mixes_by_design():
            return
        for most in PARTS:
            n = min(most, len(batch))
            if n > 1:
                yield [batch.shard(int(k), n) for k in self._rng.permutation(n)]

    def _mixes_by_design(self) -> bool:
        """Tell whether there is batch norm, whose rows must stay together."""
        statistics = getattr(self._oracle.model, "statistics", None)
        return bool(statistics is not None and statistics.arrays())

    def _nudged(self, batch: Batch) -> tuple[float, NDArray]:
        """Return loss and gradient for weights that are changed by a unit in the last place."""
        params = self._oracle.model.params
        before = np.array(params)
        u = params.dtype.type(2 * unit_roundoff(self._oracle.model))
        params *= 1 + u * self._rng.choice([-1, 0, 1], len(params)).astype(params.dtype)
        result = self._gradient([batch])
        params[:] = before
        return result

    def _mixing(self, by_order: NDArray, by_nudge: NDArray, limit: float) -> str:
        """Name the parameter whose gradient depends on the order of rows, if there is one."""
        for each in self._oracle.parameters:
            part = slice(each.start, each.stop)
            order, nudge = by_order[part].max(initial=0), by_nudge[part].max(initial=0)
            if not order <= max(limit, 64 * nudge):
                return (
                    f"the gradient of {each.name} in plain training changes by {order:.1e} when "
                    f"its rows are taken in other parts, and rounding explains {limit:.1e}: it "
                    "mixes rows, or depends on their order"
                )
        return ""


def measurable(oracle: Strategy, batches: Sequence[Batch]) -> Rounding | None:
    """Prepare to measure the rounding of a training that is about to begin.

    Returns:
        None if the training cannot go back to a state, as with an optimizer of the user's own that
        keeps none, or if it is not of one process: only some ranks may need the measurement.
    """
    if oracle.comm.size > 1:
        return None
    try:
        return Rounding(oracle, oracle.state(), batches)
    except AttributeError:
        return None
