"""Where the user's own loop first differs from plain training, and what to check there."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nn import Batch
from nn.parameters import Parameter

CLOSE = 1e-6
"""Relative difference of two moves that are taken as equal."""


def first_difference(
    plain: Any, before: NDArray | None, theirs: NDArray, batches: Sequence[Batch], tolerance: float
) -> str:
    """Say which parameters differ after the last step, by how much, and what explains it.

    Args:
        plain: plain training, after the step.
        before: the weights before that step, which both had; None if none was taken.
        theirs: the weights of the user's loop after the step.
        batches: the batches of all steps until then.
        tolerance: largest difference relative to the largest weight that is not counted.
    """
    ours, parameters = plain.weights(), plain.parameters
    largest = np.abs(ours).max()
    errors = {p.name: np.abs(ours - theirs)[p.start : p.stop].max(initial=0) for p in parameters}
    wrong = [p for p in parameters if not errors[p.name] <= tolerance * largest]
    names = ", ".join(f"{p.name} ({errors[p.name] / largest:.1e})" for p in wrong[:4])
    more = f" and {len(wrong) - 4} more" if len(wrong) > 4 else ""
    if before is None:
        return (
            f"your loop begins with other weights: {names}{more}, relative to the largest. "
            "Expected it to make its module by the same function as the model, before it draws "
            "any other random number; train([]) returns the weights that it begins with"
        )
    step = len(batches) - 1
    why = _explained(plain, ours - before, theirs - before, wrong, batches)
    return (
        f"step {step}: the weights of your loop and of plain training differ, relative to the "
        f"largest, in {len(wrong)} of {len(parameters)} parameters: {names}{more}. {why}"
    )


def _explained(
    plain: Any, ours: NDArray, theirs: NDArray, wrong: list[Parameter], batches: Sequence[Batch]
) -> str:
    """Say what explains that two steps moved parameters differently."""
    still = [p.name for p in wrong if not theirs[p.start : p.stop].any()]
    if still:
        return f"Your loop did not move {_some(still)}: check what its optimizer is given"
    still = [p.name for p in wrong if not ours[p.start : p.stop].any()]
    if still:
        return (
            f"Plain training did not move {_some(still)}: check what is frozen, and the groups of "
            "the optimizer"
        )
    ratio = float(ours @ theirs) / float(ours @ ours)
    if _close(theirs, ratio * ours) and len(wrong) == len(plain.parameters):
        return (
            f"Your loop moves all of them {ratio:.6g} times as far: {_scale(plain, ratio, batches)}"
        )
    if len(wrong) < len(plain.parameters):
        vectors = {p.name for p in plain.parameters if len(p.shape) < 2}
        if {p.name for p in wrong} <= vectors:
            return "Only biases and norms differ: check the groups, and who gets weight decay"
        if not vectors & {p.name for p in wrong}:
            return "Biases and norms agree: check weight decay, and who gets it"
        return "The others agree: check the groups, and what is shared between layers"
    if len(batches) > 1:
        return (
            "The steps before agree: check the state of the optimizer, the schedule, and how a "
            "batch of another size, or with fewer targets that count, is averaged"
        )
    return (
        "Check the loss and its reduction, clipping (the norm of all parameters, after backward "
        "and before the step), and dropout, whose masks no other program draws alike"
    )


def _scale(plain: Any, ratio: float, batches: Sequence[Batch]) -> str:
    """Say what a step of so many times the length may come from."""
    batch, step = batches[-1], len(batches) - 1
    count = batch.count(plain.model.loss)
    rates = _rates(plain.optimizer, step)
    for factor, what in (
        (count, "it sums the loss over the batch, and plain training takes the mean"),
        (count / len(batch), "it divides the loss by the rows, and plain training by all targets"),
        (1 / len(batch), "it divides the loss by the rows twice"),
        *((rate, f"its learning rate is that of step {at}, not {step}") for at, rate in rates),
    ):
        if factor != 1 and math.isclose(ratio, factor, rel_tol=1e-4):
            return what
    if len({len(one) for one in batches}) > 1:
        return "check how a batch of another size is averaged, and the schedule"
    return "check the reduction of the loss, the learning rate and its schedule, and clipping"


def _rates(optimizer: Any, step: int) -> list[tuple[int, float]]:
    """Return the learning rates of the steps before and after, relative to that of this step."""
    lr = getattr(optimizer, "lr", None)
    if not callable(lr) or not lr(step):
        return []
    return [(at, lr(at) / lr(step)) for at in (step - 1, step + 1) if at >= 0]


def _close(a: NDArray, b: NDArray) -> bool:
    return bool(np.linalg.norm(a - b) <= CLOSE * np.linalg.norm(b))


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + " and others" * (len(names) > 4)
