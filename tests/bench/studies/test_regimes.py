"""Fits find the regimes that were planted in synthetic curves."""

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bench.studies.regimes import HALVES_WITHIN, PAYS_ABOVE, Curve, fit, over_seeds

pytestmark = pytest.mark.workers(1)

SIZES = [2**k for k in range(3, 13)]
CURVES = st.builds(
    Curve,
    fewest_steps=st.floats(10, 1_000),
    critical=st.floats(24, 1_400),
    sharpness=st.floats(0.7, 4),
)


@given(CURVES)
def test_regimes_are_what_doubling_does_to_the_steps(curve: Curve) -> None:
    def doubled(size: float) -> float:
        return float(curve.steps(2 * size) / curve.steps(size))

    assert doubled(curve.halves_until) == pytest.approx((1 + HALVES_WITHIN) / 2)
    assert doubled(curve.pays_until) == pytest.approx(1 - PAYS_ABOVE)
    assert curve.halves_until < curve.pays_until
    assert doubled(curve.halves_until / 2) < (1 + HALVES_WITHIN) / 2
    assert doubled(curve.pays_until * 2) > 1 - PAYS_ABOVE


@given(st.floats(10, 1_000), st.floats(1, 10_000), st.floats(1, 10_000))
def test_with_sharpness_1_steps_and_examples_are_a_hyperbola(steps, critical, size) -> None:
    """The form of McCandlish et al. (2018), section 2.3, written out."""
    curve = Curve(steps, critical)
    needed = float(curve.steps(size))
    product = (needed / steps - 1) * (size * needed / curve.fewest_examples - 1)
    assert product == pytest.approx(1, rel=1e-6)
    assert curve.halves_until == pytest.approx(critical / 4)
    assert curve.pays_until == pytest.approx(critical * 4)


@settings(max_examples=60, deadline=None)
@given(CURVES)
def test_planted_regimes_are_found(curve: Curve) -> None:
    assume(curve.halves_until > 16 and curve.pays_until < 2_048)
    found = fit(SIZES, curve.steps(SIZES).tolist())
    assert found is not None
    assert found.halves_until == pytest.approx(curve.halves_until, rel=0.01)
    assert found.pays_until == pytest.approx(curve.pays_until, rel=0.01)
    assert found.fewest_steps == pytest.approx(curve.fewest_steps, rel=0.01)


@settings(max_examples=30, deadline=None)
@given(st.floats(10, 1_000), st.floats(20, 2_000), st.integers(0, 2**32 - 1))
def test_a_planted_critical_batch_is_found_in_noise(steps, critical, seed) -> None:
    rng = np.random.default_rng(seed)
    noisy = Curve(steps, critical).steps(SIZES) * np.exp(0.03 * rng.standard_normal(len(SIZES)))
    found = fit(SIZES, noisy.tolist(), sharpness=1)
    assert found is not None
    assert found.critical == pytest.approx(critical, rel=0.3)
    assert found.fewest_examples == pytest.approx(steps * critical, rel=0.15)


def test_what_never_arrived_is_left_out_and_too_little_gives_no_curve() -> None:
    curve = Curve(20, 100)
    steps = curve.steps(SIZES).tolist()
    found = fit([*SIZES, 8192], [*steps, math.inf], sharpness=1)
    assert found is not None
    assert found.critical == pytest.approx(100, rel=1e-3)
    assert fit(SIZES[:3], steps[:3]) is None
    assert fit(SIZES[:3], steps[:3], sharpness=1) is not None
    assert fit(SIZES, [*steps[:2], *[math.inf] * 8], sharpness=1) is None


@pytest.mark.parametrize(("slope", "outside"), [(-1, SIZES[-1]), (0, SIZES[0])])
def test_a_curve_that_does_not_bend_ends_outside_of_what_was_tried(slope, outside) -> None:
    found = fit(SIZES, [1e5 * size**slope for size in SIZES], sharpness=1)
    assert found is not None
    assert (found.critical > outside) if slope else (found.critical < outside)


def test_intervals_over_seeds_are_of_students_t() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(2_000):
        found = over_seeds([*100 * np.exp(0.3 * rng.standard_normal(3))])
        covered += found.low <= 100 <= found.high
    assert 0.93 < covered / 2_000 < 0.97
    assert over_seeds([10.0, 1000.0]).value == pytest.approx(100)


def test_seeds_without_a_figure_are_left_out_of_the_interval() -> None:
    assert over_seeds([10.0, 10.0, math.inf, math.nan]) == over_seeds([10.0, 10.0])
    one, none = over_seeds([10.0]), over_seeds([])
    assert (one.value, one.low, one.high) == (pytest.approx(10), 0, math.inf)
    assert math.isnan(none.value)
