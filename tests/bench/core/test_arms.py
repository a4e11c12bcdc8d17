"""How a turn is timed: by clocks that tell exactly the time of the steps that were asked for."""

import time
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace

import pytest
from mpi4py import MPI

from bench.core import arms, cores
from bench.core.arms import alone, clocked, within

WARM_UP = 100.0
"""Seconds of the first step after a pause; each rank's others take one second more by rank."""


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still but for the work of this rank."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(arms, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    return clock


def work(clock, seconds):
    """Steps of that many seconds, and the steps that were taken. A lone first step takes long."""
    taken = []

    def run(first, steps):
        taken.append((first, steps))
        clock.now += WARM_UP if steps == 1 else steps * seconds

    return run, taken


@pytest.mark.workers(1, 2)
def test_the_steps_of_the_slowest_rank_are_timed_and_not_the_step_before_them(comm, clock):
    run, taken = work(clock, 1.0 + comm.rank)
    assert arms.together(comm, run, 6, 3) == 3.0 * comm.size
    assert taken == [(6, 1), (6, 3)]


@pytest.mark.workers(1, 2)
def test_alone_only_the_steps_of_rank_0_are_timed(comm, clock):
    run, taken = work(clock, 1.0 + comm.rank)
    assert alone(comm, run, 6, 3) == 3.0
    assert taken == ([(6, 1), (6, 3)] if comm.rank == 0 else [])


@pytest.mark.workers(1, 2)
def test_threads_warm_up_for_as_many_steps_as_they_are_timed(comm, clock):
    """A core that has slept is slow for some milliseconds, and so are its threads."""
    run, taken = work(clock, 2.0)
    assert alone(comm, run, 6, 3, warm_up=3) == 6.0
    assert taken == ([(6, 3), (6, 3)] if comm.rank == 0 else [])


@pytest.mark.workers(1)
def test_the_first_call_of_a_function_is_not_timed(clock):
    lasting = iter([WARM_UP, 1.0, 2.0, 3.0])

    def call():
        clock.now += next(lasting)

    turn = clocked(call)
    assert turn(0, 2) == 3.0
    assert turn(2, 1) == 3.0


@pytest.mark.workers(1)
def test_a_turn_within_a_context_is_made_there_each_time():
    inside = []

    @contextmanager
    def context():
        inside.append("in")
        yield
        inside.append("out")

    turn = within(context, lambda first, steps: inside.append((first, steps)) or 5.0)
    assert [turn(0, 2), turn(2, 2)] == [5.0, 5.0]
    assert inside == ["in", (0, 2), "out", "in", (2, 2), "out"]


@pytest.mark.workers(1)
@pytest.mark.parametrize(
    ("step", "asked", "period", "taken"),
    [
        (0.01, 10, 1, [1, 10]),
        (0.1, 20, 1, [1, 2]),
        (2.0, 20, 1, [1, 1]),
        (2.0, 1, 1, [1]),
        (0.01, 12, 10, [10, 20]),
        (0.01, 40, 10, [10, 20]),
        (2.0, 40, 10, [10, 10]),
        (0.01, 3, 10, [10]),
    ],
)
def test_a_slow_turn_has_fewer_steps_and_whole_periods(step, asked, period, taken):
    """It ends with the first step, or period, beyond 0.15 seconds; its time is scaled."""
    steps = []

    def turn(first, count):
        steps.append(count)
        return count * step

    bound = arms.bounded(turn, period)
    assert bound(7, asked) == pytest.approx(asked * step)
    assert steps == taken
    assert bound(7, asked) == pytest.approx(asked * step)
    assert steps[len(taken) :] == taken[-1:], "its time is known by now"


@pytest.mark.workers(2, 3)
def test_ranks_that_take_no_part_sleep_and_are_told_the_seconds(comm):
    some = comm.Split(0 if comm.rank == 0 else MPI.UNDEFINED)

    def busy(first, steps):
        assert comm.rank == 0
        end = time.perf_counter() + 0.3
        while time.perf_counter() < end:
            pass
        return 7.0

    before = time.process_time()
    assert arms.among(comm, some, busy)(0, 5) == 7.0
    used = time.process_time() - before
    assert comm.rank == 0 or used < 0.03


@pytest.mark.workers(1)
@pytest.mark.parametrize("timed", ["together", "alone", "clocked"])
def test_a_turn_leaves_no_thread_running(comm, monkeypatch, timed):
    """Its own seconds are over before it waits for that."""
    seen, clock = [], SimpleNamespace(now=0.0)
    monkeypatch.setattr(arms, "time", SimpleNamespace(perf_counter=lambda: clock.now))

    def settle():
        seen.append("settled")
        clock.now += 1000.0

    monkeypatch.setattr(arms, "settle", settle)

    def work(*_):
        seen.append("work")
        clock.now += 1.0

    turn = clocked(work) if timed == "clocked" else partial(getattr(arms, timed), comm, work)
    seconds = turn(0, 1)
    assert (seconds, seen) == (1.0, ["work", "work", "settled"])


@pytest.mark.workers(1)
def test_blas_has_a_thread_for_each_core_that_the_launch_may_use(monkeypatch):
    asked = []

    @contextmanager
    def limits(number):
        asked.append(number)
        yield

    monkeypatch.setattr(cores.threadpoolctl, "threadpool_limits", limits)
    monkeypatch.setattr(cores, "available", lambda: 7)
    monkeypatch.setattr(cores, "settle", lambda looks: asked.append("settled"))
    with cores.all_cores():
        assert asked == [7]
    assert asked == [7, "settled"]


@pytest.mark.workers(1)
@pytest.mark.parametrize(
    ("used", "looks"),
    [
        ([0, 0, 0], 3),
        ([4, 4, 0, 0, 0], 5),
        ([4, 0, 0, 4, 0, 0, 0], 7),  # a thread that got no core for two looks
        ([4] * 300, 200),  # another thread works on: wait no longer than a second
    ],
)
def test_threads_have_stopped_when_none_has_run_in_three_looks(monkeypatch, used, looks):
    """`used`: milliseconds that this process used during each look of 5 ms."""
    clock = SimpleNamespace(now=0.0, used=0.0, looks=0)

    def sleep(seconds):
        clock.now += seconds
        clock.used += used[clock.looks] / 1e3
        clock.looks += 1

    fake = SimpleNamespace(
        monotonic=lambda: clock.now, process_time=lambda: clock.used, sleep=sleep
    )
    monkeypatch.setattr(cores, "time", fake)
    cores.settle(looks=3)
    assert clock.looks == pytest.approx(looks, abs=looks // 100)


@pytest.mark.workers(1)
def test_cores_are_those_that_the_launch_may_use_and_not_those_of_the_host(monkeypatch):
    mine, launchers = {3}, {3, 5}
    monkeypatch.setattr(cores.os, "cpu_count", lambda: 64)
    monkeypatch.setattr(
        cores.os, "sched_getaffinity", lambda process: set(launchers if process else mine)
    )
    for name in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert (cores.allowed(), cores.available()) == ({3}, 1)
    for name in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE"):
        with monkeypatch.context() as launched:
            launched.setenv(name, "2")
            assert (cores.allowed(), cores.available()) == ({3, 5}, 2)
