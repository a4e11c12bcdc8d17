"""Learning-rate schedules: functions from the number of steps taken to a learning rate."""

import math
from collections.abc import Sequence

from nn.arguments import as_int
from nn.optim import Schedule


def constant(lr: float) -> Schedule:
    """The same rate at every step."""
    return lambda step: lr


def milestones(lr: float, at: Sequence[int], factor: float = 0.1) -> Schedule:
    """`lr`, multiplied by `factor` at each step number in `at`.

    Raises:
        ValueError: the step numbers are not increasing.
    """
    if list(at) != sorted(set(at)):
        raise ValueError(f"milestones at {list(at)}: expected increasing step numbers")
    return lambda step: lr * factor ** sum(step >= milestone for milestone in at)


def cosine(lr: float, steps: int, lr_min: float = 0.0) -> Schedule:
    """Half a cosine from `lr` at step 0 to `lr_min` at step `steps`, and `lr_min` after it.

    Loshchilov and Hutter, "SGDR" (2017), equation 5, without restarts.

    Raises:
        TypeError: steps is not a whole number.
        ValueError: steps < 1.
    """
    as_int("steps", steps, 1)

    def schedule(step: int) -> float:
        return lr_min + (lr - lr_min) * (1 + math.cos(math.pi * min(step / steps, 1))) / 2

    return schedule


def warm_restarts(lr: float, period: int, factor: int = 1, lr_min: float = 0.0) -> Schedule:
    """Half cosines from `lr` to `lr_min`, each `factor` times as long as the one before it.

    The first takes `period` steps.

    Loshchilov and Hutter, "SGDR: stochastic gradient descent with warm restarts" (2017), eq. 5.

    Raises:
        TypeError: period or factor is not a whole number.
        ValueError: period or factor < 1.
    """
    as_int("period", period, 1)
    as_int("factor", factor, 1)

    def schedule(step: int) -> float:
        length = period
        while step >= length:
            step -= length
            length *= factor
        return lr_min + (lr - lr_min) * (1 + math.cos(math.pi * step / length)) / 2

    return schedule
