"""Learning-rate schedules of tasks: each is made for the number of steps that a training takes."""

from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any

from nn.arguments import as_float
from nn.lr_schedules import constant
from nn.optim import Schedule

Maker = float | Callable[[int], Schedule]
"""A rate that stays, or: number of steps of the training -> schedule."""


def as_makers(schedules: Mapping[str, Maker]) -> dict[str, Maker]:
    """Return `schedules`, checked.

    Raises:
        TypeError: it is no dict, or a schedule is neither a rate nor a function.
        ValueError: it is empty, or a rate is negative.
    """
    if not isinstance(schedules, Mapping):
        raise TypeError(
            f"schedules={schedules!r:.60}: expected a dict of names and functions, e.g. "
            '{"cosine": partial(nn.lr_schedules.cosine, 0.1)}'
        )
    if not schedules:
        raise ValueError("schedules is empty: expected at least one")
    for name, maker in schedules.items():
        if isinstance(maker, Real):
            as_float(f"schedules[{name!r}]", maker, 0.0)
        elif not callable(maker):
            raise TypeError(
                f"schedules[{name!r}]={maker!r}: expected a rate, or a function from the number of "
                "steps to a schedule, e.g. partial(nn.lr_schedules.cosine, 0.1)"
            )
    return dict(schedules)


def made(name: str, maker: Any, steps: int) -> Schedule:
    """Make the schedule of a training of so many steps.

    Raises:
        TypeError: the function makes no schedule; a schedule itself, for one, makes a rate.
    """
    schedule = constant(maker) if isinstance(maker, Real) else maker(steps)  # type: ignore[arg-type]
    if not callable(schedule):
        raise TypeError(
            f"schedules[{name!r}]({steps}) returned {schedule!r}: expected a schedule. A schedule "
            "is made for the number of steps of a training: give the function that makes it, e.g. "
            "partial(nn.lr_schedules.cosine, 0.1)"
        )
    return schedule
