"""Tune learning rate and momentum for each batch size, with the same budget for all.

Shallue et al., "Measuring the effects of data parallelism on neural network training" (JMLR
20(112), 2019), section 4: every batch size is tuned alone, by a quasi-random search, and the
configuration that needs the fewest steps to the target counts. All batch sizes may choose from the
same points.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

from scipy.stats import qmc

from bench.report.batch_sizes import Tried
from strategies.tasks import run_tasks
from strategies.tasks.outcome import Outcome

EFFECTIVE = (0.005, 2.0)
"""Least and largest effective learning rate, lr / (1 - momentum)."""

MOMENTUM = (0.0, 0.95)
"""Least and largest momentum."""

EDGE = 0.05
"""A point lies at the edge of what may be chosen if it is in this share of the logarithms."""

WAVE = 4
"""Configurations of a batch size that are tried at the same time."""


def points(trials: int) -> list[tuple[float, float]]:
    """Return so many pairs of a learning rate and a momentum.

    They fill the logarithms of the effective learning rate and of 1 - momentum evenly, by the
    sequence of Halton (Numerische Mathematik 2, 1960); more trials only add to them.
    """
    sequence = qmc.Halton(2, scramble=False)
    sequence.fast_forward(1)  # it begins with the corner
    found = []
    for along, across in sequence.random(trials):
        momentum = 1 - _between((1 - MOMENTUM[0], 1 - MOMENTUM[1]), across)
        found.append((_between(EFFECTIVE, along) * (1 - momentum), momentum))
    return found


def at_edge(lr: float, momentum: float) -> bool:
    """Return whether a learning rate lies at the edge of what may be chosen."""
    low, high = map(math.log, EFFECTIVE)
    along = (math.log(lr / (1 - momentum)) - low) / (high - low)
    return not EDGE <= along <= 1 - EDGE


def _between(ends: tuple[float, float], share: float) -> float:
    """Return the point at this share of the way, by logarithms."""
    return ends[0] ** (1 - share) * ends[1] ** share


def best_of(tried: list[Tried]) -> int | None:
    """Return the number of the one that needed the fewest steps; None if none has arrived."""
    steps = [each.steps for each in tried]
    return steps.index(min(steps)) if math.isfinite(min(steps)) else None


class _Waves:
    """Tries the points of each batch size in waves: one ends before the next one begins.

    A point is broken off where the best of the waves before it had arrived, since it cannot win any
    more. So the winner is that of an exhaustive search, whatever runs the tasks.
    """

    def __init__(self, budgets: Mapping[int, int], trials: int):
        self._budgets, self._points = budgets, points(trials)
        self.tried: dict[int, dict[int, Tried]] = {size: {} for size in budgets}

    def begin(self) -> list[dict[str, Any]]:
        return [task for size in self._budgets for task in self._wave(size)]

    def ended(self, outcome: Outcome) -> list[dict[str, Any]]:
        task = outcome.task
        if outcome.error:
            raise RuntimeError(f"{task} has failed:\n{outcome.error}")
        size, tried = task["batch_size"], self.tried[task["batch_size"]]
        found = Tried(task["lr"], task["momentum"], outcome.value, task["allowed"])
        tried[task["number"]] = found
        return self._wave(size) if len(tried) % WAVE == 0 else []

    def _wave(self, size: int) -> list[dict[str, Any]]:
        tried = self.tried[size]
        best = min((each.steps for each in tried.values()), default=math.inf)
        allowed = self._budgets[size] if math.isinf(best) else int(best) - 1
        if not allowed:
            return []
        return [
            dict(batch_size=size, number=number, lr=lr, momentum=momentum, allowed=allowed)
            for number, (lr, momentum) in enumerate(self._points[: len(tried) + WAVE])
            if number >= len(tried)
        ]


def tune(
    steps: Callable[[dict[str, Any]], float],
    budgets: Mapping[int, int],
    trials: int,
    executor: Any = None,
) -> dict[int, list[Tried]]:
    """Try `trials` points for each batch size, and return what they came to, in their order.

    The points, and so the outcomes, are the same with any executor.

    Args:
        steps: called with a task of "batch_size", "lr", "momentum" and "allowed" steps; returns the
            steps to the target, infinity if it needs more than these.
        budgets: batch size -> steps that a training may take at most.
        executor: as for `run_tasks`.

    Raises:
        RuntimeError: a task has raised.
    """
    waves = _Waves(budgets, trials)
    # The largest batches take longest, and begin first.
    begin = sorted(waves.begin(), key=lambda task: -task["batch_size"])
    run_tasks(steps, begin, executor, then=waves.ended, progress=False)
    return {
        size: [tried[number] for number in sorted(tried)] for size, tried in waves.tried.items()
    }
