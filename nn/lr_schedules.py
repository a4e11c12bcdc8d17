"""Learning-rate schedules: functions from the number of steps taken to a learning rate."""

import math
from collections.abc import Sequence

from nn.arguments import as_float, as_int
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


def warmup(schedule: float | Schedule, steps: int) -> Schedule:
    """A linear rise during `steps` steps, and then `schedule`, counted from its own step 0.

    Step s < steps has the rate schedule(0) * (s + 1) / (steps + 1): no step has the rate 0, and
    step `steps` is the first of the schedule, with schedule(0). Torch's name for it is
    SequentialLR of LinearLR(start_factor=1 / (steps + 1), total_iters=steps) and the schedule.

    Args:
        schedule: the schedule that follows, or a rate that stays.
        steps: number of steps of the rise; 0 for none.

    Raises:
        TypeError: schedule is neither a function nor a number, or steps is not a whole number.
        ValueError: a negative rate or number of steps.
    """
    as_int("steps", steps, 0)
    after = schedule if callable(schedule) else constant(as_float("lr", schedule, 0.0))
    return lambda step: after(0) * (step + 1) / (steps + 1) if step < steps else after(step - steps)


def linear(lr: float, steps: int, lr_end: float = 0.0) -> Schedule:
    """A straight line from `lr` at step 0 to `lr_end` at step `steps`, and `lr_end` after it.

    Raises:
        TypeError: steps is not a whole number.
        ValueError: steps < 1.
    """
    as_int("steps", steps, 1)
    return lambda step: lr + (lr_end - lr) * min(step / steps, 1)


def one_cycle(
    lr: float,
    steps: int,
    rise: float = 0.3,
    anneal: str = "cos",
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
    three_phase: bool = False,
) -> Schedule:
    """A rise to `lr` and a longer fall, and the last rate after step `steps` - 1.

    Smith and Topin, "Super-convergence" (2018), section 3, in the form of
    torch.optim.lr_scheduler.OneCycleLR. Only the rate follows the cycle: momentum stays.

    Args:
        lr: the largest rate.
        steps: number of steps of the cycle.
        rise: share of the steps in which the rate rises (torch's pct_start), in [0, 1).
        anneal: "cos" for halves of a cosine, "linear" for straight lines.
        div_factor: step 0 has the rate lr / div_factor.
        final_div_factor: the last has lr / div_factor / final_div_factor.
        three_phase: fall to the first rate in as many steps as the rise took, then to the last.

    Raises:
        TypeError: steps is not a whole number, or rise is not a number.
        ValueError: steps < 1, rise is not in [0, 1), a divisor is not above 0, or another anneal.
    """
    as_int("steps", steps, 1)
    as_float("rise", rise, 0.0, 1.0)
    if anneal not in ("cos", "linear"):
        raise ValueError(f'anneal={anneal!r}: expected "cos" or "linear"')
    if not (div_factor > 0 and final_div_factor > 0):
        raise ValueError(f"divisors {div_factor!r}, {final_div_factor!r}: expected above 0")
    first, last = lr / div_factor, lr / div_factor / final_div_factor
    peak = rise * steps - 1
    turns = [(0.0, first), (peak, lr)]
    if three_phase:
        turns.append((2 * peak, first))
    turns.append((steps - 1.0, last))

    def schedule(step: int) -> float:
        step = min(step, steps - 1)
        phase = next((i for i, (end, _) in enumerate(turns[1:-1]) if step <= end), len(turns) - 2)
        (begin, high), (end, low) = turns[phase : phase + 2]
        done = (step - begin) / (end - begin) if end > begin else 1.0
        if anneal == "cos":
            done = (1 - math.cos(math.pi * done)) / 2
        return high + (low - high) * done

    return schedule
