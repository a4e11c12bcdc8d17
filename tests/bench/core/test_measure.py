"""The measuring core: what is wrong is not measured, and what is measured is what was asked."""

import copy
import gc
import math
import os
import time
from dataclasses import asdict, replace
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest

import nn
from bench import conftest
from bench.conftest import hold
from bench.core import measure as core
from bench.core import turns
from bench.core.arms import alone, arms, together
from bench.core.cell import Case, Cell, interval
from bench.core.check import WrongTraining, equals_sequential, unchecked, uneven_rows
from bench.core.cores import all_cores, available
from bench.core.measure import measure
from bench.core.silence import Silent
from bench.core.turns import Contender
from bench.report.promises import Promise
from strategies import DataParallel, Sequential, SharedDataParallel
from tests.examples.mean_of_means import MeanOfMeans
from tests.ranks import shares
from tests.support.wrong_strategies import LastRankDiverges, Lazy, Unreduced

ROWS, SIZES = 60, [8, 6, 3]


def make_case(workers, build=DataParallel, **changes):
    rng = np.random.default_rng(0)
    x, y = rng.random((ROWS, SIZES[0]), np.float32), rng.integers(0, 3, ROWS)
    batches = [nn.Batch(x, y, range(lo, lo + 20)) for lo in range(0, ROWS, 20)]
    case = Case(
        cell=Cell(build.__name__, "tiny", workers, 20, ROWS),
        build=lambda comm: build(nn.mlp(SIZES), nn.SGD(0.1, 0.9), comm),
        sequential=lambda: Sequential(nn.mlp(SIZES), nn.SGD(0.1, 0.9)),
        batches=batches,
        check_batches=[*batches[:2], nn.Batch(x, y, range(uneven_rows(workers, 20)))],
    )
    return replace(case, **changes)


def gathered(comm, value):
    """Gather a number or a list of numbers from every rank."""
    mine = np.atleast_1d(np.array(value, float))
    everyone = np.empty((comm.size, mine.size))
    comm.Allgather(mine, everyone)
    return everyone


# What is wrong


@pytest.mark.workers(2)
@pytest.mark.parametrize("wrong", [Unreduced, LastRankDiverges, Lazy])
def test_wrong_training_is_not_measured(comm, wrong):
    with pytest.raises(WrongTraining, match=f"{wrong.__name__}.* differ from"):
        measure(make_case(comm.size, wrong), comm)


@pytest.mark.workers(2)
def test_check_has_shards_that_are_not_equal(comm):
    """Batches of 20 rows do not show a mean of means; a batch of 5 does."""
    case = make_case(comm.size)
    parallel = DataParallel(nn.mlp(SIZES), nn.SGD(0.1, 0.9), comm)
    assert not equals_sequential(parallel, case.sequential(), case.check_batches, comm).problem
    for batches, noticed in ((case.batches, False), (case.check_batches, True)):
        wrong = MeanOfMeans(nn.mlp(SIZES), nn.SGD(0.1, 0.9), comm)
        check = equals_sequential(wrong, case.sequential(), batches, comm)
        assert bool(check.problem) is noticed


@pytest.mark.workers(1)
def test_training_that_stands_still_proves_nothing(comm):
    still = replace(make_case(1), sequential=lambda: Sequential(nn.mlp(SIZES), nn.SGD(0.0)))
    with pytest.raises(WrongTraining, match="did not move"):
        measure(still, comm)


def test_check_error_is_relative_to_the_distance_moved(comm):
    case = make_case(comm.size)

    class Off(DataParallel):
        def weights(self):
            weights = super().weights()
            weights[3] += self.off
            return weights

    sequential = case.sequential()
    start = sequential.weights()
    off = Off(nn.mlp(SIZES), nn.SGD(0.1, 0.9), comm)
    reference = case.sequential()
    for batch in case.check_batches:
        reference.step(batch)
    moved = np.abs(reference.weights() - start).max()
    off.off = 0.25 * moved
    check = equals_sequential(off, sequential, case.check_batches, comm)
    assert check.error == pytest.approx(0.25, rel=1e-3)
    assert check.problem


@pytest.mark.workers(2)
@pytest.mark.parametrize("victim", [0, 1])
def test_a_weight_that_is_no_number_is_an_endless_error_whoever_has_it(comm, victim):
    """MPI's maximum of a NaN and a number may be either of them."""

    class NoNumber(DataParallel):
        def weights(self):
            weights = super().weights()
            weights[0] = np.nan if comm.rank == victim else weights[0]
            return weights

    case = make_case(comm.size)
    parallel = NoNumber(nn.mlp(SIZES), nn.SGD(0.1, 0.9), comm)
    check = equals_sequential(parallel, case.sequential(), case.check_batches, comm)
    assert check.error == math.inf
    assert "differ from those of sequential training by inf" in check.problem


@pytest.mark.workers(2)
def test_unchecked_says_why(comm, monkeypatch):
    monkeypatch.setattr(turns, "SHORTEST_TURN", 0.002)
    case = make_case(comm.size, Unreduced, check=unchecked("by design"))
    result = measure(case, comm, seconds=0)
    assert result.check_error is None
    assert result.note == "by design"


# What is measured


@pytest.mark.parametrize("build", [DataParallel, SharedDataParallel])
def test_measurement_is_one_and_consistent(comm, build, monkeypatch):
    monkeypatch.setattr(turns, "SHORTEST_TURN", 0.005)
    result = measure(make_case(comm.size, build), comm, seconds=0.1)

    flat = [result.steps_per_round, result.speedup, result.bound, result.threads_speedup]
    flat += [len(times) for times in result.rounds.values()]
    flat += [time for times in result.rounds.values() for time in times]
    everyone = gathered(comm, flat)
    assert (everyone == everyone[0]).all()

    median = {arm: np.median(times) for arm, times in result.rounds.items()}
    assert result.speedup == median["sequential"] / median["parallel"]
    assert result.bound == median["sequential"] / median["silent"]
    assert result.threads_speedup == median["sequential"] / median["threads"]
    assert result.efficiency == result.speedup / comm.size
    assert result.samples_per_second == result.steps_per_round * 20 / median["parallel"]
    assert result.oversubscribed == (comm.size > available())
    assert result.speedup_low <= result.speedup <= result.speedup_high
    assert len(result.rounds["sequential"]) == len(result.rounds["parallel"]) >= core.ROUNDS[0]
    shares = [result.profile[k] for k in ("compute", "communication", "waiting")]
    assert np.sum(shares, axis=0) == pytest.approx(1)
    assert {"strategy", "model", "workers", "batch_size", "dataset_size", "device"} <= set(
        result.as_dict()
    )


@pytest.mark.workers(1, 2)
@pytest.mark.parametrize("wrong", [False, True])
def test_every_strategy_is_closed_in_the_end(comm, wrong):
    """One each for the check and the rounds, without messages, and for the profile."""
    made, closed = [], []

    class Counted(Lazy if wrong else DataParallel):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            made.append(self)

        def close(self):
            closed.append(self)
            super().close()

    try:
        measure(make_case(comm.size, Counted), comm, seconds=0, steps=1)
    except WrongTraining:
        assert wrong
    assert len(made) == (1 if wrong else 3)
    assert sorted(map(id, closed)) == sorted(map(id, made))


@pytest.mark.workers(1)
@pytest.mark.parametrize(("sequential", "parallel"), [(2e-3, 1e-3), (1e-4, 5e-4), (0.3, 0.2)])
def test_rounds_last_long_enough(comm, sequential, parallel):
    """With steps of known length, the shorter arm lasts long enough, and hardly longer."""
    contenders = {
        "sequential": Contender(lambda first, steps: steps * sequential),
        "parallel": Contender(lambda first, steps: steps * parallel),
        "silent": Contender(lambda first, steps: steps * 1e-9, paces=False),
    }
    shortest = turns.take_turns(contenders).steps * min(sequential, parallel)
    assert shortest >= turns.SHORTEST_TURN * (1 - 1e-9)
    assert shortest < turns.SHORTEST_TURN + min(sequential, parallel)


def test_every_arm_trains_the_same_batches_in_turn(comm, monkeypatch):
    """Each round begins where the last one ended, so both arms train on the same rows."""
    seen = {"sequential": [], "parallel": []}

    def watched(strategy, arm):
        step = strategy.step
        strategy.step = lambda batch: (seen[arm].append(batch), step(batch))[1]
        return strategy

    case = make_case(comm.size)
    parallel = watched(case.build(comm), "parallel")
    sequential = watched(case.sequential(), "sequential")
    contenders = arms(case, comm, sequential, parallel, None, Silent(comm))
    for first in (0, 2):
        for arm in ("sequential", "parallel"):
            contenders[arm].turn(first, 2)
    expected = [case.batches[i % 3] for i in (0, 0, 1, 2, 2, 3)]  # one for the caches, two timed
    assert seen["parallel"] == expected
    assert seen["sequential"] == (expected if comm.rank == 0 else [])


def test_slowest_rank_counts(comm):
    def run(first, steps):
        if steps == 2 and comm.rank == comm.size - 1:
            time.sleep(0.05)

    assert together(comm, run, 0, 2) >= 0.05


@pytest.mark.workers(2, 4)
def test_ranks_sleep_while_one_works(comm):
    def work(first, steps):
        end = time.perf_counter() + 0.3
        while time.perf_counter() < end:
            pass

    before = time.process_time()
    seconds = alone(comm, work, 0, 1)
    used = gathered(comm, time.process_time() - before)[:, 0]
    assert seconds >= 0.3
    assert used[1:].max() < 0.05 * seconds, f"idle ranks used {used[1:]} s of {seconds} s"


@pytest.mark.workers(1)
def test_interval_contains_the_estimate_and_narrows(comm):
    rng = np.random.default_rng(1)
    widths = []
    for n in (5, 15, 200):
        sequential, parallel = rng.lognormal(0, 0.1, n), rng.lognormal(-0.5, 0.1, n)
        low, high = interval(sequential, parallel)
        assert low <= np.median(sequential) / np.median(parallel) <= high
        widths.append(high - low)
    assert widths[0] > widths[2]
    drift = rng.lognormal(0, 1, 30)
    assert interval(2 * drift, drift) == (2, 2), "pairs must be resampled together"


@pytest.mark.workers(1)
def test_wrong_number_of_workers(comm):
    with pytest.raises(ValueError, match="2 workers on a communicator of 1"):
        measure(make_case(2), comm)


@pytest.mark.workers(1)
def test_no_full_batch(comm):
    with pytest.raises(ValueError, match="no batch of 20 rows"):
        measure(replace(make_case(1), batches=[]), comm)


# All cores by threads


@pytest.mark.alone
@pytest.mark.workers(1)
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="binding is Linux's")
def test_all_cores_for_a_while(comm, monkeypatch):
    everything = os.sched_getaffinity(0)
    if len(everything) < 2:
        pytest.skip("one core is all cores")
    monkeypatch.setattr("bench.core.cores.allowed", lambda: everything)
    os.sched_setaffinity(0, {min(everything)})
    spun = []
    try:
        for _ in range(3):  # beside other programs, a thread may get no core while it is looked at
            with all_cores():
                assert os.sched_getaffinity(0) == everything
                x = np.ones((400, 400), np.float32)
                for _ in range(20):
                    x @ x
            assert os.sched_getaffinity(0) == {min(everything)}
            before = time.process_time()
            time.sleep(0.05)
            spun.append(time.process_time() - before)
        assert min(spun) < 0.01, "threads of BLAS are still spinning"
    finally:
        os.sched_setaffinity(0, everything)


# On disk


@pytest.mark.workers(1)
def test_cells_have_names_of_their_own(comm):
    cell = Cell("S", "m", 2, 64, 1000)
    others = [replace(cell, **{key: "x"}) for key in asdict(cell)]
    assert len({str(c) for c in (cell, *others)}) == 7


# What is promised


def held(monkeypatch, ratios, load, workers):
    """Hold promises on two cores: the exception that this raises, if any, and its message."""
    monkeypatch.setattr("bench.core.background_load.available", lambda: 2)
    try:
        hold(ratios, load, workers)
    except (pytest.skip.Exception, pytest.fail.Exception) as outcome:
        return type(outcome), str(outcome)
    return None, ""


@pytest.mark.workers(1)
@pytest.mark.parametrize(
    ("ratio", "load", "needed", "outcome", "said"),
    [
        (Promise("a / b", 1.0, 1.0), 0.0, 2, None, ""),
        (Promise("a / b", 1.0, 1.0), 1.0, 2, None, ""),
        (Promise("a / b", 9.9), 0.0, 2, None, ""),
        (
            Promise("a / b", 1.1, 1.0),
            0.05,
            2,
            pytest.fail.Exception,
            "1.100, promised is at most 1",
        ),
        (Promise("a / b", 1.1, 1.0), 1.0, 1, pytest.fail.Exception, "a / b"),  # a core was free
        (Promise("a / b", 1.1, 1.0), 1.0, 2, pytest.skip.Exception, "kept 1.0 cores busy"),
    ],
)
def test_a_promise_is_not_broken_by_other_programs(monkeypatch, ratio, load, needed, outcome, said):
    found, text = held(monkeypatch, [ratio], load, needed)
    assert found is outcome
    assert said in text


@pytest.mark.workers(1)
@pytest.mark.parametrize(("load", "most"), [(0.2, 1.25), (0.5, 2.0), (1.9, 2.0)])
def test_a_promise_is_broken_by_more_than_other_programs_explain(monkeypatch, load, most):
    """All of the load may have run on the core of one rank while the others waited for it."""
    found, _ = held(monkeypatch, [Promise("a / b", 3 * most - 0.01, 3.0)], load, 2)
    assert found is pytest.skip.Exception
    for value in (3 * most + 0.01, math.inf, math.nan):
        found, text = held(monkeypatch, [Promise("a / b", value, 3.0)], load, 2)
        assert found is pytest.fail.Exception
        assert f"no more than {3 * most:.3f} while others" in text


@pytest.mark.workers(1)
def test_of_several_promises_an_excused_one_does_not_hide_a_broken_one(monkeypatch):
    excused, broken = Promise("excused", 1.1, 1.0), Promise("broken", 9.0, 1.0)
    assert held(monkeypatch, [excused], 1.0, 2)[0] is pytest.skip.Exception
    for ratios in ([excused, broken], [broken, excused]):
        found, text = held(monkeypatch, ratios, 1.0, 2)
        assert found is pytest.fail.Exception
        assert "broken: 9.000" in text
        assert "excused" not in text


@pytest.mark.workers(1)
def test_what_is_measured_is_never_shared_out(request):
    item = copy.copy(request.node)
    item.path, item.own_markers = conftest.HERE / "test_speedup.py", [*item.own_markers]
    for shared in (True, False):
        item.stash = pytest.Stash()
        assert shares.arrange([item]) == [item]
        assert bool(shares.block_of(item)) is shared
        options = SimpleNamespace(quick=False, cells=False)
        config = SimpleNamespace(option=options, pluginmanager=Mock(), stash={})
        conftest.pytest_collection_modifyitems(config, [item])


# Where the time goes


@pytest.mark.workers(1, 2)
@pytest.mark.parametrize("steps", [1, 3])
def test_bytes_are_those_of_a_step(comm, steps):
    """The gradient and the loss, in float32; the step before the profile is left out."""
    case = make_case(comm.size)
    expected = 4 * (len(case.sequential().weights()) + 1)
    assert core.profile(case, comm, steps)["bytes_sent"] == [expected] * comm.size


@pytest.mark.workers(2)
def test_the_time_goes_to_what_a_rank_does(comm):
    """Rank 0 computes for long, while rank 1 waits for it."""

    class Slow(DataParallel):
        def gradients(self, batch):
            if comm.rank == 0:
                time.sleep(0.02)
            return super().gradients(batch)

    shares = core.profile(make_case(comm.size, Slow), comm, 5)
    assert shares["compute"][0] > 0.6
    assert shares["waiting"][1] > 0.6
    assert max(shares["communication"]) < 0.3


@pytest.mark.workers(1)
def test_no_garbage_is_collected_while_the_arms_are_timed(comm, monkeypatch):
    timed, real = [], core.take_turns

    def watched(*arguments, **options):
        timed.append(gc.isenabled())
        return real(*arguments, **options)

    monkeypatch.setattr(core, "take_turns", watched)
    measure(make_case(1), comm, seconds=0, steps=1)
    assert timed == [False]
    assert gc.isenabled()
