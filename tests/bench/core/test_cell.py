"""A measurement's figures follow from its rounds by the conventions that the pages state."""

import numpy as np
import pytest

from bench.core import cell as cell_module
from bench.core.cell import Cell, Measurement, interval
from bench.core.check import Check

pytestmark = pytest.mark.workers(1)

ROUNDS = {
    "sequential": [4.0, 100.0, 6.0, 5.0, 5.0],
    "parallel": [2.0, 2.5, 50.0, 2.0, 4.0],
    "silent": [2.0, 1.0, 2.0, 9.0, 2.0],
    "threads": [4.0, 10.0],
}


def measured(ranks=2, rounds=ROUNDS):
    return Measurement.of(Cell("S", "m", ranks, 64, 1000), rounds, 10, Check(1e-7))


def test_figures_are_of_medians():
    """The means, the fastest, the first and the last round would all give others."""
    found = measured()
    assert found.speedup == 5 / 2.5
    assert found.efficiency == found.speedup / 2
    assert found.bound == 5 / 2
    assert found.threads_speedup == 5 / 7
    assert found.samples_per_second == 10 * 64 / 2.5
    assert (found.steps_per_round, found.rounds, found.check_error) == (10, ROUNDS, 1e-7)
    assert measured(rounds={k: v for k, v in ROUNDS.items() if k != "silent"}).bound is None


def test_the_interval_has_a_confidence_of_95_percent():
    """An independent bootstrap over pairs; 80% would be two thirds as wide, 99% a third wider."""
    rng = np.random.default_rng(3)
    common = rng.lognormal(0, 0.5, 60)
    sequential, parallel = common * rng.lognormal(0.5, 0.1, 60), common * rng.lognormal(0, 0.1, 60)
    picked = rng.integers(0, 60, (20_000, 60))
    ratios = np.median(sequential[picked], axis=1) / np.median(parallel[picked], axis=1)
    low, high = np.percentile(ratios, [2.5, 97.5])
    within = 0.1 * (high - low)
    assert interval(sequential, parallel) == pytest.approx((low, high), abs=within)
    found = measured(rounds=ROUNDS | {"sequential": sequential, "parallel": parallel})
    assert (found.speedup_low, found.speedup_high) == interval(sequential, parallel)


@pytest.mark.parametrize(("ranks", "crowded"), [(1, False), (2, False), (3, True)])
def test_oversubscribed_is_judged_by_the_cores_of_the_launch(monkeypatch, ranks, crowded):
    monkeypatch.setattr(cell_module, "available", lambda: 2)
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    assert measured(ranks).oversubscribed is crowded
