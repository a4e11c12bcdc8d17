"""Each batch size gets the same points, and the winner is that of an exhaustive search."""

import math
from typing import Any

import numpy as np
import pytest

from bench.report.batch_sizes import Tried
from bench.studies.tuning import EFFECTIVE, MOMENTUM, WAVE, at_edge, best_of, points, tune

pytestmark = pytest.mark.workers(1)

BUDGETS = {8: 900, 64: 200, 512: 100}
TRIALS = 2 * WAVE + 2


def planted(task: dict[str, Any]) -> float:
    """Steps that grow with the distance from an effective rate that suits the batch size."""
    effective = task["lr"] / (1 - task["momentum"])
    steps = round(20 + 40 * abs(math.log(effective / (0.003 * task["batch_size"]))))
    return float(steps) if steps <= task["allowed"] else math.inf


def in_full(size: int) -> list[float]:
    return [
        planted(dict(batch_size=size, lr=lr, momentum=momentum, allowed=BUDGETS[size]))
        for lr, momentum in points(TRIALS)
    ]


@pytest.mark.parametrize("executor", [None, 2])
def test_the_winner_is_that_of_an_exhaustive_search(executor: int | None) -> None:
    found = tune(planted, BUDGETS, TRIALS, executor)
    assert list(found) == list(BUDGETS)
    for size, tried in found.items():
        assert [(each.lr, each.momentum) for each in tried] == points(TRIALS)
        steps = in_full(size)
        assert best_of(tried) == int(np.argmin(steps))
        assert min(each.steps for each in tried) == min(steps)
        first, later = tried[:WAVE], tried[WAVE:]
        assert {each.allowed for each in first} == {BUDGETS[size]}
        assert all(each.allowed < min(one.steps for one in first) for each in later)
    assert len({best_of(tried) for tried in found.values()}) > 1  # the sizes are tuned apart


def test_a_batch_size_that_never_arrives_is_tried_as_long_as_the_others() -> None:
    found = tune(lambda task: math.inf, {8: 50, 16: 30}, TRIALS)
    assert {size: len(tried) for size, tried in found.items()} == {8: TRIALS, 16: TRIALS}
    assert {each.allowed for each in found[8]} == {50}
    assert best_of(found[8]) is None


def test_a_training_that_fails_is_said() -> None:
    def broken(task: dict[str, Any]) -> float:
        raise OSError("no such disk")

    with pytest.raises(RuntimeError, match="no such disk"):
        tune(broken, {8: 50}, TRIALS)


def test_points_fill_the_space_evenly_and_more_trials_only_add() -> None:
    found = points(32)
    assert found[:8] == points(8)
    effective = np.array([lr / (1 - momentum) for lr, momentum in found])
    momenta = np.array([momentum for _, momentum in found])
    for values, ends in (
        (np.log(effective), np.log(EFFECTIVE)),
        (-np.log1p(-momenta), -np.log1p(-np.array(MOMENTUM))),
    ):
        counts, _ = np.histogram(values, 4, (float(ends[0]), float(ends[1])))
        assert counts.min() >= 7, counts


def test_edges_are_those_of_the_effective_learning_rate() -> None:
    assert at_edge(EFFECTIVE[1] * 0.1 * 0.95, 0.9)
    assert at_edge(EFFECTIVE[0] * 1.1, 0.0)
    assert not at_edge(0.01, 0.9)


def test_the_first_of_equals_wins() -> None:
    tried = [Tried(0.1, 0, steps, 100) for steps in (math.inf, 7.0, 7.0)]
    assert best_of(tried) == 1
