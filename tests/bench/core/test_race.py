"""Races: what is wrong is not measured, and what is measured is what was asked."""

import copy
import gc
import math
import os
import time
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
from mpi4py import MPI

import nn
from bench import conftest
from bench.core import arms, profile, turns
from bench.core import race as core
from bench.core.arms import alone, together
from bench.core.cell import Case, Cell, interval
from bench.core.check import Check, WrongTraining, equals_sequential, unchecked, uneven_rows
from bench.core.cores import all_cores, available
from bench.core.race import measure, race
from bench.core.silence import Silent
from strategies import DataParallel, LocalSGD, Pipeline, Refused, Sequential, SharedDataParallel
from strategies.sharding import schedules
from tests.examples.mean_of_means import MeanOfMeans
from tests.ranks import shares
from tests.support.wrong_strategies import LastRankDiverges, Lazy, Unreduced

ROWS, SIZES = 60, [8, 6, 3]


def make_case(workers, build=DataParallel, **changes):
    rng = np.random.default_rng(0)
    x, y = rng.random((ROWS, SIZES[0]), np.float32), rng.integers(0, 3, ROWS)
    batches = [nn.Batch(x, y, range(lo, lo + 20)) for lo in range(0, ROWS, 20)]
    case = Case(
        cell=Cell(getattr(build, "__name__", "?"), "tiny", workers, 20, ROWS),
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


# What takes turns with what


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still but for the work of this rank."""
    clock = SimpleNamespace(now=0.0)
    timer = SimpleNamespace(perf_counter=lambda: clock.now)
    for module in (arms, profile):
        monkeypatch.setattr(module, "time", timer)
    return clock


def lasting(clock, seconds, workers=1, plain=1.0, name="Lasting"):
    """A case whose steps last exactly so many seconds, as do those of plain training."""

    def build(seconds, comm):
        strategy = DataParallel(nn.mlp(SIZES), nn.SGD(0.1), comm)

        def step(batch):
            clock.now += seconds
            return 0.0

        strategy.step = step
        return strategy

    return replace(
        make_case(workers),
        cell=Cell(f"{name} {seconds}", "tiny", workers, 20, ROWS),
        build=lambda comm: build(seconds, comm),
        sequential=lambda: build(plain, MPI.COMM_SELF),
        check=unchecked("its time is known"),
        runs_silent=False,
    )


@pytest.mark.workers(1, 2, 3)
@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 1, 0, 2], [2], [1, 3]])
def test_known_times_come_back_in_any_order_and_company(comm, clock, order):
    workers = [1, comm.size, 1, comm.size]
    lasts = [4.0, 0.5, 1.0, 0.0625]
    cases = [lasting(clock, lasts[k], workers[k]) for k in order]
    found = race(cases, comm, seconds=0)
    assert [m.speedup for m in found] == [1 / lasts[k] for k in order]
    assert [m.threads_speedup for m in found] == [1.0] * len(order)
    assert [m.cell for m in found] == [case.cell for case in cases]


@pytest.mark.workers(1, 2)
def test_plain_training_and_threads_are_timed_once_for_all(comm, clock):
    slow, fast = race([lasting(clock, 2.0), lasting(clock, 0.5, comm.size)], comm, seconds=0)
    for arm in ("sequential", "threads"):
        assert slow.rounds[arm] is fast.rounds[arm]
    assert slow.machine is fast.machine
    assert {len(times) for times in slow.rounds.values()} == {core.ROUNDS[0]}


@pytest.mark.workers(2)
@pytest.mark.parametrize(("cores", "steps"), [(2, 5000), (1, 50)])
def test_cells_with_more_workers_than_cores_do_not_set_the_pace(
    comm, clock, monkeypatch, cores, steps
):
    monkeypatch.setattr(core, "available", lambda: cores)
    case = lasting(clock, 1e-5, workers=2, plain=1e-3)
    assert measure(case, comm, seconds=0).steps_per_round == steps


@pytest.mark.workers(1, 2, 3)
def test_what_cannot_be_measured_does_not_keep_the_others_from_it(comm, clock):
    class Refusing(DataParallel):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            raise Refused("not this net")

    class FailsOnTheLastRank(DataParallel):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            if self.comm.rank == self.comm.size - 1:
                raise OSError("no such disk")

    n = comm.size
    cases = [
        lasting(clock, 2.0, n),
        *(make_case(n, wrong) for wrong in (Lazy, Refusing, FailsOnTheLastRank)),
        lasting(clock, 0.5, n, name="Other"),
    ]
    first, *failed, last = race(cases, comm, seconds=0)
    assert (first.speedup, last.speedup) == (0.5, 2.0)
    assert [(type(each), str(each)) for each in failed[1:]] == [
        (Refused, "not this net"),
        (OSError, "no such disk"),
    ]
    assert isinstance(failed[0], WrongTraining)
    assert failed[0].cell == cases[1].cell
    assert [type(each) for each in race(cases[1:4], comm)] == [type(each) for each in failed]


@pytest.mark.workers(1, 2, 3)
@pytest.mark.parametrize("fails_in", ["calibration", "rounds", "single steps"])
def test_a_cell_that_fails_in_the_rounds_leaves_the_race_to_the_others(comm, clock, fails_in):
    """On its workers, all at once; the ranks that sleep meanwhile hear of it too."""
    bad = lasting(clock, 1.0, min(comm.size, 2), name="Bad")
    last = {"calibration": 0, "rounds": 12, "single steps": 2 * (core.ROUNDS[0] + 1) + 3}[fails_in]

    def build(comm):
        strategy = bad.build(comm)
        step, taken = strategy.step, iter(range(10**6))

        def fail(batch):
            if next(taken) >= last:
                raise OSError("the disk is full")
            return step(batch)

        strategy.step = fail
        return strategy

    cases = [lasting(clock, 2.0), replace(bad, build=build), lasting(clock, 0.5, comm.size)]
    one, failed, other = race(cases, comm, seconds=0)
    assert (one.speedup, other.speedup) == (0.5, 2.0)
    assert isinstance(failed, OSError if comm.rank < bad.cell.workers else Exception)
    assert comm.rank > 0 or str(failed) == "the disk is full"


@pytest.mark.workers(1, 2)
def test_a_turn_that_raises_leaves_nothing_open(comm):
    made = []

    class Watched(MPI.Intracomm):
        def Split(self, *arguments):
            made.append(super().Split(*arguments))
            return made[-1]

    def fails(first, steps):
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        core.turns_on(Watched(comm), {"one": turns.Contender(fails)}, 1, steps=1)
    assert made == [MPI.COMM_NULL]


@pytest.mark.workers(2)
def test_the_death_of_a_rank_is_no_outcome_of_a_cell(comm, clock, monkeypatch):
    """It ends the race, which is then run again without the rank."""

    def dies(comm):
        raise MPI.Exception(MPI.ERR_OTHER)

    good = lasting(clock, 2.0)
    with pytest.raises(MPI.Exception):
        race([good, replace(good, build=dies)], comm, seconds=0)


@pytest.mark.workers(2)
def test_a_profile_is_of_whole_periods(comm):
    """LocalSGD sends its weights once in 10 steps: one step has a tenth of that."""
    case = make_case(
        comm.size, lambda *on: LocalSGD(*on, period=10), cell=Cell("L", "tiny", comm.size, 20, ROWS)
    )
    found = measure(replace(case, check=unchecked("it trains otherwise")), comm, seconds=0, steps=3)
    sent = found.profile["bytes_sent"]
    assert min(sent) > 0
    hundred = profile.profile(case, comm, 100)["bytes_sent"]
    assert sent == pytest.approx(hundred, rel=0.05)


@pytest.mark.workers(1)
def test_cells_of_two_races_are_refused(comm):
    case = make_case(1)
    for change in ({"model": "other"}, {"batch_size": 21}, {"dataset_size": 61}, {"device": "x"}):
        other = replace(case, cell=replace(case.cell, **change))
        with pytest.raises(ValueError, match="expected cells of one race"):
            race([case, other], comm)


@pytest.mark.workers(1, 2)
def test_cells_that_need_too_much_memory_are_divided(comm, clock, monkeypatch):
    lasts = [2.0, 0.5, 4.0, 1.0, 8.0]
    cases = [lasting(clock, seconds) for seconds in lasts]
    a_cell = core.vectors(1) * cases[0].sequential().model.params.nbytes
    monkeypatch.setattr(core, "MEMORY", 2.5 * a_cell)
    found = race(cases, comm, seconds=0)
    assert [m.speedup for m in found] == [1 / seconds for seconds in lasts]
    together = [[m.machine is other.machine for other in found].index(True) for m in found]
    assert together == [0, 0, 2, 2, 4]
    monkeypatch.setattr(core, "MEMORY", 1)  # too little for any cell: each is raced alone
    assert [m.speedup for m in race(cases, comm, seconds=0)] == [1 / seconds for seconds in lasts]
    assert race([], comm) == []


@pytest.mark.workers(2, 4)
def test_a_cell_keeps_no_more_than_is_foreseen(comm, monkeypatch):
    """The windows of the strategy that shares most, and of its copy that shares nothing."""
    taken = []

    class Watched(MPI.Win):
        @classmethod
        def Allocate_shared(cls, size, *arguments, **options):
            taken.append(size)
            return super().Allocate_shared(size, *arguments, **options)

    monkeypatch.setattr(MPI, "Win", Watched)
    case = replace(
        make_case(comm.size),
        build=lambda comm: SharedDataParallel(nn.mlp([60, 60, 3]), nn.SGD(0.1, 0.9), comm),
        sequential=lambda: Sequential(nn.mlp([60, 60, 3]), nn.SGD(0.1, 0.9)),
    )
    n = case.sequential().model.params.nbytes
    silent = Silent(comm)
    real_one = case.build(comm)
    with silent.private_memory():
        private_one = case.build(silent)
    assert comm.allreduce(sum(taken)) > 2 * n, "nothing was watched"
    assert sum(taken) < core.vectors(comm.size) * n
    real_one.close()
    private_one.close()


@pytest.mark.workers(2, 3)
def test_ranks_that_are_no_workers_take_no_steps(comm, clock):
    """They are workers of no cell: the time of all steps is rank 0's."""
    race([lasting(clock, 2.0), lasting(clock, 0.5)], comm, seconds=0, steps=4)
    assert (clock.now > 0) is (comm.rank == 0)


@pytest.mark.workers(1, 2)
def test_the_machine_is_looked_at_in_every_round(comm):
    found = measure(make_case(comm.size), comm, seconds=0, steps=1)
    rounds = core.ROUNDS[0]
    expected = {"background_load", "steal", "copy_gb_s"}
    if comm.size > 1 and available() > 1:
        expected |= {"handover_ns", "own_line_ns"}
    assert expected <= found.machine.keys()
    assert {name: len(values) for name, values in found.machine.items()} == dict.fromkeys(
        found.machine, rounds
    )


@pytest.mark.workers(2)
def test_what_is_done_once_in_a_while_is_timed_with_its_share_of_it(comm, clock):
    """One step in ten lasts 11 seconds, and the others 1: each turn has its share of both."""
    case = lasting(clock, 1.0, workers=2)

    def build(comm):
        strategy = case.build(comm)
        strategy.period, steps = 10, iter(range(10**6))

        def step(batch):
            clock.now += 11.0 if next(steps) % 10 == 3 else 1.0

        strategy.step = step
        return strategy

    found = measure(replace(case, build=build), comm, seconds=0, steps=7)
    assert found.rounds["parallel"] == [14.0] * core.ROUNDS[0]


@pytest.mark.workers(1)
@pytest.mark.parametrize(
    ("arm", "where"),
    [
        ("sequential", {("plain", "one core", "heard")}),
        ("parallel", {("strategy", "one core", "heard")}),
        ("silent", {("strategy", "one core", "silent")}),
        ("threads", {("plain", "all cores", "heard")}),
    ],
)
def test_each_arm_trains_what_its_name_says_and_where(comm, monkeypatch, arm, where):
    place, taken, real = SimpleNamespace(name="one core", heard="heard"), [], core.take_turns

    @contextmanager
    def all_cores():
        place.name = "all cores"
        yield
        place.name = "one core"

    @contextmanager
    def silence(silent):
        place.heard = "silent"
        yield
        place.heard = "heard"

    def noting(name, strategy):
        step = strategy.step

        def noted(batch):
            taken.append((name, place.name, place.heard))
            return step(batch)

        strategy.step = noted
        return strategy

    def one_arm(contenders, *arguments, **options):
        taken.clear()
        name = arm if arm in contenders else f"{arm} 0"
        contenders[name].turn(0, 2)
        noted.extend(taken)
        return real(contenders, *arguments, **options)

    noted = []
    monkeypatch.setattr(core, "all_cores", all_cores)
    monkeypatch.setattr(core.Silent, "silence", silence)
    monkeypatch.setattr(core, "take_turns", one_arm)
    case = make_case(1)
    measure(
        replace(
            case,
            build=lambda comm: noting("strategy", case.build(comm)),
            sequential=lambda: noting("plain", case.sequential()),
        ),
        comm,
        seconds=0,
        steps=1,
    )
    assert set(noted) == where
    untimed = 2 if arm == "threads" else 1  # threads warm up for as long as they are timed
    assert len(noted) >= 2 + untimed


@pytest.mark.workers(1)
def test_only_plain_training_and_strategies_set_the_pace(comm, monkeypatch):
    seen, real = {}, core.take_turns

    def watched(contenders, *arguments, **options):
        seen.update({name: contender.paces for name, contender in contenders.items()})
        return real(contenders, *arguments, **options)

    monkeypatch.setattr(core, "take_turns", watched)
    measure(make_case(1), comm, seconds=0, steps=1)
    assert seen == {"sequential": True, "threads": False, "parallel 0": True, "silent 0": False}


def test_all_arms_train_the_same_batches_in_turn(comm):
    """Each round begins where the last one ended, so all arms train on the same rows."""
    seen = {"sequential": [], "parallel": []}

    def watched(strategy, arm):
        step = strategy.step
        strategy.step = lambda batch: (seen[arm].append(batch), step(batch))[1]
        return strategy

    case = make_case(comm.size)
    measure(
        replace(
            case,
            build=lambda comm: watched(case.build(comm), "parallel"),
            sequential=lambda: watched(case.sequential(), "sequential"),
            check=lambda *_: [each.clear() for each in seen.values()] and Check(),
            runs_silent=False,
        ),
        comm,
        seconds=0,
        steps=2,
    )
    for first in range(0, 2 * core.ROUNDS[0], 2):
        turn = [case.batches[i % 3] for i in (first, first, first + 1)]  # the first for the caches
        for arm, batches in seen.items():
            if arm == "parallel" or comm.rank == 0:
                assert any(batches[k : k + 3] == turn for k in range(len(batches))), (arm, first)


# How it is timed


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


@pytest.mark.workers(1)
def test_what_is_measured_is_never_shared_out(request):
    item = copy.copy(request.node)
    item.path, item.own_markers = conftest.HERE / "test_speedup.py", [*item.own_markers]
    for shared in (True, False):
        item.stash = pytest.Stash()
        assert shares.arrange([item]) == [item]
        assert bool(shares.block_of(item)) is shared
        options = SimpleNamespace(quick=False, cells=False, promises=False)
        config = SimpleNamespace(option=options, pluginmanager=Mock(), stash={})
        conftest.pytest_collection_modifyitems(config, [item])


# Where the time goes


@pytest.mark.workers(1, 2)
@pytest.mark.parametrize("steps", [1, 3])
def test_bytes_are_those_of_a_step(comm, steps):
    """The gradient and the loss, in float32; the step before the profile is left out."""
    case = make_case(comm.size)
    expected = 4 * (len(case.sequential().weights()) + 1)
    assert profile.profile(case, comm, steps)["bytes_sent"] == [expected] * comm.size


@pytest.mark.workers(2)
def test_the_time_goes_to_what_a_rank_does(comm):
    """Rank 0 computes for long, while rank 1 waits for it."""

    class Slow(DataParallel):
        def gradients(self, batch):
            if comm.rank == 0:
                time.sleep(0.02)
            return super().gradients(batch)

    shares = profile.profile(make_case(comm.size, Slow), comm, 5)
    assert shares["compute"][0] > 0.6
    assert shares["waiting"][1] > 0.6
    assert max(shares["communication"]) < 0.3


@pytest.mark.workers(1, 2)
def test_single_steps_are_those_of_the_slowest_rank(comm, clock):
    """Step i lasts i seconds on the last rank, and is over at once on others."""
    case, lasts = make_case(comm.size), iter([5.0, 1.0, *range(1, 21)])

    def step(batch):
        clock.now += next(lasts) if comm.rank == comm.size - 1 else 0.001

    found = profile.single_steps(SimpleNamespace(step=step), case, comm, seconds=7.0)
    assert found == {"p50": 10.5, "p95": pytest.approx(19.05), "max": 20.0}


@pytest.mark.workers(1)
@pytest.mark.parametrize(("lasts", "steps"), [(1.0, 20), (0.1, 70), (0.001, 200)])
def test_as_many_single_steps_are_timed_as_fit(comm, clock, lasts, steps):
    taken = []

    def step(batch):
        taken.append(batch)
        clock.now += lasts

    profile.single_steps(SimpleNamespace(step=step), make_case(1), comm, seconds=7.05)
    assert len(taken) == steps + 2


@pytest.mark.workers(2)
def test_every_operation_of_a_pipeline_is_timed(comm):
    """Rank 0 takes 10 ms for each forward; rank 1 waits for it, which is not its work."""

    class Slow(nn.layers.Tanh):
        def forward(self, x):
            time.sleep(0.01)
            return super().forward(x)

    layers = [nn.layers.Linear(8, 6), Slow(), nn.layers.Linear(6, 3)]
    build = partial(Pipeline, micro_batches=3, schedule="gpipe", cuts=[2])
    strategy = build(nn.Model(layers, seed=0), nn.SGD(0.1), comm)
    found = profile.operations(strategy, make_case(2), comm)
    strategy.close()
    for rank, planned in enumerate(schedules.schedule("gpipe", 2, 3)):
        assert [op[:3] for op in found[rank]] == [tuple(op) for op in planned]
        times = [time for *_, begin, end in found[rank] for time in (begin, end)]
        assert times == sorted(times)
        assert times[0] >= 0
    slow = [end - begin for kind, _, _, begin, end in found[0] if kind == "F"]
    (*_, first_begin, _), *_ = found[1]
    waiting = [end - begin for *_, begin, end in found[1]]
    assert min(slow) > 0.009
    assert first_begin > 0.005
    assert np.median(waiting) < 0.005


@pytest.mark.workers(1)
def test_other_strategies_have_no_operations(comm):
    case = make_case(1)
    assert profile.operations(case.build(comm), case, comm) == []


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
