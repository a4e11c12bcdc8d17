"""Verdicts on round times whose truth is known."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.gate import statistics
from bench.gate.statistics import (
    Estimate,
    Outcome,
    cells_to_confirm,
    decide,
    judge,
    judge_and_confirm,
    log_speedup,
    moderate,
)
from tests.bench.gate.noise import CELLS, Noise, Program, measure

pytestmark = pytest.mark.workers(1)

QUIET = Noise(launch=0.004, common=0.03, pair=0.05, round=0.004, outliers=0.05)


def outcomes(verdicts):
    return {verdict.cell: verdict.outcome for verdict in verdicts}


def measured(seed, *programs, noise=QUIET, launches=3):
    """Measure each program, with one stream of random numbers."""
    rng = np.random.default_rng(seed)
    return [measure(rng, noise, program, launches) for program in programs]


class TestLogSpeedup:
    def test_is_the_median_over_pairs(self):
        assert log_speedup([2.0, 4.0, 90.0], [1.0, 2.0, 3.0]) == pytest.approx(np.log(2))

    def test_keeps_what_slows_both_rounds_of_a_pair_out(self):
        seconds = np.array([1.0, 7.0, 2.0, 5.0, 3.0])
        assert log_speedup(2 * seconds, seconds) == pytest.approx(np.log(2), abs=1e-12)

    @pytest.mark.parametrize(
        "times",
        [[], [1.0, np.nan], [1.0, 0.0], [1.0, -1.0], [[1.0, 2.0]], [1.0, np.inf]],
        ids=["none", "nan", "zero", "negative", "2-D", "infinite"],
    )
    def test_refuses_what_is_no_time(self, times):
        with pytest.raises(ValueError, match="positive number of seconds"):
            log_speedup(times, times)

    def test_refuses_unpaired_rounds(self):
        with pytest.raises(ValueError, match="not 2 sequential and 3 parallel"):
            log_speedup([1.0, 1.0], [1.0, 1.0, 1.0])


class TestModerate:
    def test_recovers_the_prior_that_the_variances_were_drawn_from(self):
        rng = np.random.default_rng(0)
        d, d0, s02 = 4, 6.0, 0.02**2
        true = s02 * d0 / rng.chisquare(d0, 20_000)
        drawn = true * rng.chisquare(d, true.size) / d
        shrunk, freedom = moderate(drawn, np.full(true.size, d))
        # (d0 s0^2 + d s^2) / (d0 + d): slope and intercept give the fitted prior back
        slope, intercept = np.polyfit(drawn, shrunk, 1)
        assert slope == pytest.approx(d / (d0 + d), rel=0.05)
        assert intercept == pytest.approx(d0 * s02 / (d0 + d), rel=0.05)
        assert freedom == pytest.approx(d0 + d, rel=0.05)

    def test_pools_cells_that_differ_no_more_than_chance_makes_them(self):
        variances, freedom = moderate([1e-4, 1.1e-4, 0.9e-4], [4, 4, 4])
        assert variances == pytest.approx([1e-4] * 3)
        assert freedom == pytest.approx([12] * 3)

    def test_leaves_a_single_cell_alone(self):
        assert [x.tolist() for x in moderate([1e-4], [4])] == [[1e-4], [4]]

    def test_survives_launches_that_agree_to_the_last_digit(self):
        variances, _ = moderate([0.0, 0.0, 1e-4], [4, 4, 4])
        assert np.all(np.isfinite(variances) & (variances > 0))


class TestJudge:
    def test_equal_programs_pass(self):
        before, after = measured(1, Program(), Program())
        assert set(outcomes(judge(before, after)).values()) == {Outcome.PASS}

    def test_a_machine_that_is_slower_today_passes(self):
        before, after = measured(2, Program(), Program(sequential=4.4e-3, parallel=2.8e-3))
        verdicts = judge(before, after)
        assert set(outcomes(verdicts).values()) == {Outcome.PASS}
        assert all(v.parallel_ratio == pytest.approx(2, rel=0.1) for v in verdicts)

    def test_a_slower_parallel_arm_is_suspect_until_fresh_launches_confirm_it(self):
        slow = Program().slowed("cell-2", 0.10)
        before, after, fresh = measured(3, Program(), slow, slow)
        first = judge(before, after)
        assert outcomes(first)["cell-2"] is Outcome.SUSPECT
        assert cells_to_confirm(first) == ["cell-2"]
        final = outcomes(judge(before, after, fresh))
        assert final.pop("cell-2") is Outcome.SLOWER
        assert set(final.values()) == {Outcome.PASS}

    def test_what_fresh_launches_do_not_confirm_passes_and_says_so(self):
        before, after, fresh = measured(4, Program(), Program().slowed("cell-2", 0.10), Program())
        verdict = {v.cell: v for v in judge(before, after, fresh)}["cell-2"]
        assert verdict.outcome is Outcome.PASS
        assert "not confirmed" in verdict.reason

    def test_the_tolerance_is_a_slowdown(self):
        slow = Program().slowed("cell-0", 0.10)
        before, after, fresh = measured(5, Program(), slow, slow)
        assert outcomes(judge(before, after, fresh, tolerance=0.08))["cell-0"] is Outcome.SLOWER
        assert outcomes(judge(before, after, fresh, tolerance=0.12))["cell-0"] is Outcome.PASS
        # +10% lowers the speedup by 9.1%
        verdict = judge(before, after)[0]
        assert verdict.ratio == pytest.approx(1 / 1.10, rel=0.01)

    def test_a_faster_sequential_arm_is_named(self):
        program = Program(slower_sequential={"cell-1": -0.15})
        before, after, fresh = measured(6, Program(), program, program)
        verdict = {v.cell: v for v in judge(before, after, fresh)}["cell-1"]
        assert verdict.outcome is Outcome.SEQUENTIAL_FASTER
        assert "sequential arm got faster" in verdict.reason

    def test_a_slower_sequential_arm_is_no_gain(self):
        """As when idle ranks spin while the sequential arm is taken: twice the apparent speedup."""
        program = Program(slower_sequential=dict.fromkeys(CELLS, 1.0))
        before, after = measured(7, Program(), program)
        assert set(outcomes(judge(before, after)).values()) == {Outcome.SEQUENTIAL_SLOWER}

    def test_a_faster_parallel_arm_is_reported(self):
        before, after = measured(8, Program(), Program().slowed("cell-5", -0.12))
        assert outcomes(judge(before, after))["cell-5"] is Outcome.FASTER

    def test_a_missing_cell_fails(self):
        before, after = measured(9, Program(), Program())
        del after["cell-3"]
        assert outcomes(judge(before, after))["cell-3"] is Outcome.MISSING
        assert Outcome.MISSING in statistics.FAILED

    def test_a_new_cell_is_shown(self):
        before, after = measured(10, Program(), Program())
        del before["cell-3"]
        verdict = judge(before, after)[-1]
        assert (verdict.cell, verdict.outcome) == ("cell-3", Outcome.NEW)
        assert verdict.after == pytest.approx(2.2 / 1.4, rel=0.05)

    def test_oversubscribed_cells_are_shown_and_never_gated(self):
        slow = Program().slowed("cell-4", 0.5)
        before, after, fresh = measured(11, Program(), slow, slow)
        verdict = {v.cell: v for v in judge(before, after, fresh, oversubscribed={"cell-4"})}[
            "cell-4"
        ]
        assert verdict.outcome is Outcome.NOT_GATED
        assert verdict.ratio == pytest.approx(1 / 1.5, rel=0.05)

    def test_oversubscribed_cells_lend_no_noise_to_the_others(self):
        before, after = measured(11, Program(), Program())
        rng = np.random.default_rng(0)
        for part in (before, after):
            part["cell-4"] = [(s, p * rng.lognormal(0, 0.5)) for s, p in part["cell-4"]]
        found = [
            {v.cell: v for v in judge(b, a, oversubscribed={"cell-4"})}
            for b, a in (
                (before, after),
                ({**before, "cell-4": before["cell-3"]}, {**after, "cell-4": after["cell-3"]}),
            )
        ]
        for cell in before.keys() - {"cell-4"}:
            assert found[0][cell] == found[1][cell]

    def test_launches_that_confirm_are_of_both_sides(self):
        """More launches before are added to those that there are; fresh ones decide alone."""
        slow = Program().slowed("cell-2", 0.10)
        before, after = measured(13, Program(), slow)
        more, fresh = measured(14, Program(), slow, launches=5)
        asked = []

        def relaunch(cells):
            asked.append(list(cells))
            return {c: more[c] for c in cells}, {c: fresh[c] for c in cells}

        verdicts = {v.cell: v for v in judge_and_confirm(before, after, relaunch)}
        assert asked == [["cell-2"]]
        assert verdicts["cell-2"].launches == (8, 3, 5)
        assert verdicts["cell-1"].launches == (3, 3, 0)
        expected = [log_speedup(*times) for times in [*before["cell-2"], *more["cell-2"]]]
        assert verdicts["cell-2"].before == pytest.approx(math.exp(np.mean(expected)), rel=1e-9)
        assert verdicts["cell-2"].outcome is Outcome.SLOWER

    def test_the_speedup_of_each_launch_is_kept_with_its_group(self):
        before, after, fresh = measured(14, Program(), Program().slowed("cell-2", 0.1), Program())
        del after["cell-4"]
        before["cell-5"] = before["cell-5"][:1]  # too few to judge, and shown all the same
        for verdict in judge(before, after, {"cell-2": fresh["cell-2"]}):
            groups = (before, after, {"cell-2": fresh["cell-2"]})
            assert verdict.speedups == tuple(
                tuple(math.exp(log_speedup(*times)) for times in group.get(verdict.cell, ()))
                for group in groups
            )
            if verdict.ratio is not None:
                old, _, new = (
                    np.exp(np.log(each).mean()) if each else None for each in verdict.speedups
                )
                assert verdict.before == pytest.approx(old)
                assert new is None or verdict.after == pytest.approx(new)

    @pytest.mark.parametrize("launches", [0, 1, 2])
    def test_too_few_launches_are_inconclusive_not_a_pass(self, launches):
        before, after = measured(12, Program(), Program())
        after["cell-0"] = after["cell-0"][:launches]
        assert outcomes(judge(before, after))["cell-0"] is Outcome.INCONCLUSIVE

    def test_a_suspect_without_fresh_launches_stays_undecided(self):
        slow = Program().slowed("cell-2", 0.10)
        before, after, fresh = measured(13, Program(), slow, slow)
        fresh["cell-2"] = fresh["cell-2"][:2]
        outcome = outcomes(judge(before, after, fresh))["cell-2"]
        assert outcome in statistics.UNDECIDED

    def test_intervals_hold_for_all_cells_at_once(self):
        """3% is what moderation makes of the nominal 2%; one cell at a time it would be 12%."""
        rng = np.random.default_rng(15)
        grids = [judge(measure(rng), measure(rng)) for _ in range(300)]
        assert np.mean([any(v.low > 1 for v in grid) for grid in grids]) < 0.06
        assert np.mean([any(v.high < 1 for v in grid) for grid in grids]) < 0.06

    def test_noise_that_would_hide_20_percent_is_inconclusive(self):
        wild = Noise(launch=0.25)
        before, after = measured(14, Program(), Program(), noise=wild)
        assert Outcome.PASS not in outcomes(judge(before, after)).values()

    @pytest.mark.parametrize("bad", [{"tolerance": 0}, {"tolerance": 5}, {"confidence": 1}])
    def test_refuses_meaningless_settings(self, bad):
        with pytest.raises(ValueError, match="between"):
            judge({}, {}, **bad)


def estimate(first=0.0, change=None, half_width=0.01, sequential=0.0, fresh=False):
    """Make an estimate whose parallel arm explains what the sequential arm does not."""
    change = first if change is None else change
    parallel = sequential - change
    return Estimate(0.5, 0.5 + change, sequential, parallel, first, half_width, fresh, (3, 3, 5))


class TestDecide:
    @pytest.mark.parametrize(
        ("found", "outcome", "reason"),
        [
            (estimate(0.01), Outcome.PASS, "within the tolerance of 5%"),
            (estimate(-0.10), Outcome.SUSPECT, "10.5% longer; fresh launches have to confirm"),
            (estimate(-0.10, fresh=True), Outcome.SLOWER, "10.5% longer, and fresh launches conf"),
            (
                estimate(-0.10, sequential=-0.09, fresh=True),
                Outcome.SEQUENTIAL_FASTER,
                "because the sequential arm got faster (times: sequential -8.6%, parallel +1.0%)",
            ),
            (estimate(-0.10, half_width=0.11, fresh=True), Outcome.INCONCLUSIVE, "includes 1"),
            (estimate(0.0, -0.10, fresh=True), Outcome.INCONCLUSIVE, "not in the first ones"),
            (estimate(-0.10, -0.01, fresh=True), Outcome.PASS, "looked 10.5% slower at first"),
            (estimate(half_width=0.19), Outcome.INCONCLUSIVE, "less than 21% could not"),
            (estimate(half_width=0.18), Outcome.PASS, "within"),
            (estimate(0.10), Outcome.FASTER, "rose by 10.5%"),
            (estimate(0.10, half_width=0.11), Outcome.PASS, "within"),
            (estimate(0.10, sequential=0.09), Outcome.SEQUENTIAL_SLOWER, "no gain"),
        ],
    )
    def test_an_estimate_alone_decides(self, found, outcome, reason):
        decided, said = decide(found, 0.05, gated=True)
        assert decided is outcome
        assert reason in said

    @pytest.mark.parametrize(
        ("longer", "outcome"),
        [(0.090, Outcome.PASS), (0.100, Outcome.SLOWER), (0.105, Outcome.SLOWER)],
    )
    def test_a_tolerance_of_9_5_percent_is_of_the_time(self, longer, outcome):
        """Steps that take 10% longer lower the speedup by 9.1%, and a fall of it is not asked."""
        found = estimate(-math.log1p(longer), half_width=0.001, fresh=True)
        assert decide(found, 0.095, gated=True)[0] is outcome
        assert f"{longer:.1%} longer" in decide(found, 0.01, gated=True)[1]

    @pytest.mark.parametrize(
        ("shorter", "outcome"), [(0.090, Outcome.PASS), (0.100, Outcome.FASTER)]
    )
    def test_faster_is_beyond_the_same_tolerance(self, shorter, outcome):
        found = estimate(math.log1p(shorter), half_width=0.001)
        assert decide(found, 0.095, gated=True)[0] is outcome

    def test_a_cell_that_is_not_gated_never_fails(self):
        decided, _ = decide(estimate(-0.5, fresh=True), 0.05, gated=False)
        assert decided is Outcome.NOT_GATED


@settings(derandomize=True, deadline=None, max_examples=25, database=None)
@given(seed=st.integers(0, 2**32 - 1), factor=st.floats(0.2, 5), slow=st.floats(0, 0.3))
def test_verdicts_do_not_depend_on_the_speed_of_the_machine(seed, factor, slow):
    program = Program().slowed("cell-0", slow)
    before, after, fresh = measured(seed, Program(), program, program, noise=Noise())
    scaled = [
        {cell: [(seq * factor, par * factor) for seq, par in own] for cell, own in s.items()}
        for s in (after, fresh)
    ]
    # Names of causes look at the arms' times and may change; whether a cell failed may not.
    plain = [v.outcome in statistics.FAILED for v in judge(before, after, fresh)]
    assert [v.outcome in statistics.FAILED for v in judge(before, *scaled)] == plain


@settings(derandomize=True, deadline=None, max_examples=25, database=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_verdicts_do_not_depend_on_the_order_of_pairs_launches_and_cells(seed):
    slow = Program().slowed("cell-0", 0.08)
    before, after, fresh = measured(seed, Program(), slow, slow, noise=Noise())
    order = np.random.default_rng(seed).permutation(Noise().rounds)
    turned = {
        cell: [(seq[order], par[order]) for seq, par in reversed(own)]
        for cell, own in reversed(after.items())
    }
    expected, got = (judge(before, a, fresh) for a in (after, turned))
    assert outcomes(got) == outcomes(expected)
    assert [v.ratio for v in got] == pytest.approx([v.ratio for v in expected])


@settings(derandomize=True, deadline=None, max_examples=25, database=None)
@given(seed=st.integers(0, 2**32 - 1), more=st.floats(0, 0.5))
def test_slowing_a_failed_cell_further_never_saves_it(seed, more):
    slow = Program().slowed("cell-0", 0.10)
    before, after, fresh = measured(seed, Program(), slow, slow, noise=Noise())
    slower = [
        {**s, "cell-0": [(seq, par * (1 + more)) for seq, par in s["cell-0"]]}
        for s in (after, fresh)
    ]
    if outcomes(judge(before, after, fresh))["cell-0"] in statistics.FAILED:
        assert outcomes(judge(before, *slower))["cell-0"] in statistics.FAILED
