"""The error rates that the gate promises, on synthetic noise of every kind that was measured.

Seeds are fixed and the rates lie far from the bounds: if a test fails here, the gate has changed.
"""

import pytest

from bench.gate.ab import FRESH_PAIRS
from tests.bench.gate.noise import Noise
from tests.bench.gate.rates import simulate

pytestmark = pytest.mark.deadline(60)

KINDS = {
    "usual": Noise(),
    "worst measured": Noise(launch=0.021),
    "heavy tails": Noise(tail=4),
    "worst measured, heavy tails": Noise(launch=0.021, tail=4),
    "worst measured, correlated cells": Noise(launch=0.021, cells=0.6),
    "correlated arms": Noise(pair=0.4),
    "drift in a launch": Noise(drift=0.5),
    "outlying rounds": Noise(outliers=0.15),
}


@pytest.mark.parametrize("noise", KINDS.values(), ids=KINDS)
def test_false_alarms_are_at_most_1_in_100_grids(world, noise):
    assert simulate(noise, 0.0, comparisons=100, comm=world).alarms <= 0.01


@pytest.mark.parametrize("noise", KINDS.values(), ids=KINDS)
def test_a_10_percent_slower_cell_is_found_in_95_of_100(world, noise):
    rates = simulate(noise, 0.10, comparisons=200, comm=world)
    assert rates.found >= 0.95
    assert rates.alarms <= 0.01


@pytest.mark.parametrize("kind", ["worst measured", "worst measured, heavy tails"])
def test_three_fresh_pairs_find_as_much_and_alarm_as_little(world, kind):
    """What bench_ab launches to confirm."""
    pairs = {"fresh": FRESH_PAIRS, "more": FRESH_PAIRS}
    slower = simulate(KINDS[kind], 0.10, comparisons=200, comm=world, **pairs)
    assert slower.found >= 0.95
    assert slower.alarms <= 0.01
    assert simulate(KINDS[kind], 0.0, comparisons=100, comm=world, **pairs).alarms <= 0.01


@pytest.mark.parametrize("noise", KINDS.values(), ids=KINDS)
def test_a_20_percent_slower_cell_is_always_found(world, noise):
    assert simulate(noise, 0.20, comparisons=25, comm=world).found == 1
