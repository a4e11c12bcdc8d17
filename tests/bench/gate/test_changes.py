"""Steps and drifts in histories whose changes are known."""

import numpy as np
import pytest

from bench.gate import changes
from bench.gate.changes import EDGE, LEVEL, MIN_BASELINES, Kind, fitted, search

pytestmark = [pytest.mark.workers(1), pytest.mark.deadline(60)]

NOISE = 0.012
CELLS = 6


def histories(length, noise=NOISE, seed=0):
    """Draw six cells without a change; each has another speedup."""
    rng = np.random.default_rng(seed)
    levels = np.log(1.2 + 0.1 * np.arange(CELLS))
    return {f"c{n}": level + rng.normal(0, noise, length) for n, level in enumerate(levels)}


def step(length, at, size):
    return np.log1p(-size) * (np.arange(length) >= at)


def changed(shape, length, seed=0, **noise):
    """Change cell c2 by `shape`, and return all that was found."""
    series = histories(length, seed=seed, **noise)
    series["c2"] = series["c2"] + shape
    return search(series)


def test_nothing_is_found_where_nothing_changed():
    found = search(histories(12))
    assert list(found) == [f"c{n}" for n in range(CELLS)]
    assert [cell.changes for cell in found.values()] == [[]] * CELLS
    assert all(0.5 * NOISE < cell.noise < 2 * NOISE for cell in found.values())


@pytest.mark.parametrize("at", range(2, 11))
def test_a_step_is_found_at_its_first_baseline(at):
    found = changed(step(12, at, 0.1), 12)
    (change,) = found.pop("c2").changes
    assert (change.kind, change.at) == (Kind.STEP, at)
    assert change.earliest <= at <= change.latest
    assert change.low < np.log(0.9) < change.high < 0
    assert change.p <= LEVEL
    assert all(cell.changes == [] for cell in found.values())


def test_a_speedup_that_rose_has_the_other_sign():
    (change,) = changed(-step(12, 6, 0.1), 12)["c2"].changes
    assert change.low < -np.log(0.9) < change.high
    assert change.low > 0


@pytest.mark.parametrize("sign", [-1, 1])
def test_a_drift_is_found_with_its_size_from_the_first_baseline_to_the_last(sign):
    ramp = sign * np.linspace(0, 0.2, 12)
    (change,) = changed(ramp, 12)["c2"].changes
    assert (change.kind, change.at) == (Kind.DRIFT, 0)
    assert change.low < sign * 0.2 < change.high
    assert np.sign(change.low) == np.sign(change.high) == sign


def test_of_many_steps_each_is_found():
    shape = step(30, 8, 0.1) + step(30, 16, -0.15) + step(30, 24, 0.08)
    found = changed(shape, 30)["c2"].changes
    assert [(change.kind, change.at) for change in found] == [(Kind.STEP, at) for at in (8, 16, 24)]
    for change, size in zip(found, (0.1, -0.15, 0.08), strict=True):
        assert change.low < np.log1p(-size) < change.high
        assert change.size == pytest.approx(np.log1p(-size), abs=3 * NOISE)


def test_all_cells_at_once():
    series = {cell: values + step(10, 5, 0.1) for cell, values in histories(10).items()}
    found = search(series)
    assert [[change.at for change in cell.changes] for cell in found.values()] == [[5]] * CELLS


@pytest.mark.parametrize("length", [8, 12, 30])
@pytest.mark.parametrize("at", [0, 5, -2, -1])
@pytest.mark.parametrize("size", [0.05, 0.3])
def test_a_single_odd_baseline_is_no_change_in_any_length(length, at, size):
    odd = np.zeros(length)
    odd[at] = -size
    assert changed(odd, length)["c2"].changes == []


def test_a_step_is_found_beside_an_odd_baseline():
    odd = np.zeros(30)
    odd[7] = -0.1
    found = changed(odd + step(30, 20, 0.1), 30)["c2"].changes
    assert [(change.kind, change.at) for change in found] == [(Kind.STEP, 20)]


def test_a_cell_may_have_fewer_baselines():
    series = histories(12)
    series["c2"] = (series["c2"] + step(12, 6, 0.1))[3:]
    assert [change.at for change in search(series)["c2"].changes] == [3]


def test_the_order_of_time_counts():
    """Values that are mixed have no step, however far apart they are."""
    series = histories(12)
    mixed = np.where(np.arange(12) % 2, 0.0, -0.1)
    series["c2"] = series["c2"] + mixed
    assert search(series)["c2"].changes == []


@pytest.mark.parametrize("wrong", [[1.0] * (MIN_BASELINES - 1), [1.0] * 5 + [np.nan], [[1.0] * 6]])
def test_refuses_what_is_no_history(wrong):
    with pytest.raises(ValueError, match="c: expected at least 5 finite log speedups"):
        search({"c": wrong})


def test_nothing_is_nothing():
    assert search({}) == {}


@pytest.mark.parametrize("constant", [0.5, 0.0])
def test_a_clock_that_never_varies_is_no_change(constant):
    found = search({"a": np.full(8, constant), "b": np.full(8, constant)})
    assert all(cell.changes == [] for cell in found.values())


def test_the_fit_has_the_noise_taken_out():
    series = histories(12)
    series["c2"] = series["c2"] + step(12, 6, 0.1)
    fit = fitted(series["c2"], search(series)["c2"].changes)
    assert len(set(np.round(fit, 9))) == 2
    assert fit[:6].mean() == pytest.approx(series["c2"][:6].mean())


def test_the_level_holds_for_all_cells_together():
    """Of 400 grids in which nothing changed, 4 are expected to show a change."""
    alarms = sum(
        any(cell.changes for cell in search(histories(8, seed=seed)).values())
        for seed in range(400)
    )
    assert alarms <= 10


@pytest.mark.parametrize("length", [6, 12])
@pytest.mark.parametrize("what", ["least_step", "least_recent_step", "least_drift"])
def test_what_is_promised_to_be_found_is_found(what, length):
    """In 9 of 10 histories, of the average noise; the promise is of that noise."""
    found = 0
    for seed in range(100):
        series = histories(length, seed=seed)
        size = float(np.median([getattr(cell, what) for cell in search(series).values()]))
        at = {"least_step": length // 2, "least_recent_step": length - EDGE}.get(what)
        shape = np.linspace(0, -size, length) if at is None else -size * (np.arange(length) >= at)
        found += bool(changed(shape, length, seed=seed)["c2"].changes)
    assert found >= 80


def test_a_place_is_within_its_interval_in_95_of_100():
    inside = tried = 0
    for seed in range(200):
        for change in changed(step(16, 6, 0.04), 16, seed=seed)["c2"].changes:
            if change.kind is Kind.STEP:
                inside += change.earliest <= 6 <= change.latest
                tried += 1
    assert tried > 150
    assert inside / tried > 0.93


def test_the_sizes_that_stand_beside_places_hold_in_95_of_100():
    inside = tried = 0
    for seed in range(200):
        for change in changed(step(16, 6, 0.1), 16, seed=seed)["c2"].changes[:1]:
            inside += change.low <= np.log(0.9) <= change.high
            tried += 1
    assert tried > 190
    assert inside / tried > 0.92


def test_drawn_histories_are_the_same_in_every_run():
    first = changes._null.__wrapped__((8, 8))
    again = changes._null.__wrapped__((8, 8))
    assert np.array_equal(first.step, again.step)
    assert np.array_equal(first.drift, again.drift)
