"""How a turn is timed: by clocks that tell exactly the time of the steps that were asked for."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from bench.core import arms, cores
from bench.core.arms import alone, clocked, within
from bench.core.silence import Silent
from bench.core.turns import Contender
from tests.bench.core.test_measure import make_case

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


@pytest.fixture
def contenders(comm, monkeypatch):
    """The arms of a cell of one worker, and where their steps were taken."""
    taken = []
    place = SimpleNamespace(name="one core")

    @contextmanager
    def all_cores():
        place.name = "all cores"
        yield
        place.name = "one core"

    monkeypatch.setattr(arms, "all_cores", all_cores)
    case, silent = make_case(1), Silent(comm)

    def watched(name, strategy):
        step = strategy.step

        def noted(batch):
            hushed = "silent" if silent.record.silent else "heard"
            taken.append((name, place.name, hushed))
            return step(batch)

        strategy.step = noted
        return strategy

    made = arms.arms(
        case,
        comm,
        watched("plain", case.sequential()),
        watched("strategy", case.build(comm)),
        watched("without messages", case.build(silent)),
        silent,
    )
    taken.clear()
    return made, taken


@pytest.mark.workers(1)
@pytest.mark.parametrize(
    ("arm", "where"),
    [
        ("sequential", ("plain", "one core", "heard")),
        ("parallel", ("strategy", "one core", "heard")),
        ("silent", ("without messages", "one core", "silent")),
        ("threads", ("plain", "all cores", "heard")),
    ],
)
def test_each_arm_trains_what_its_name_says_and_where(contenders, arm, where):
    made, taken = contenders
    made[arm].turn(0, 2)
    assert set(taken) == {where}
    assert list(made) == ["sequential", "parallel", "threads", "silent"]


@pytest.mark.workers(1)
def test_only_the_arms_of_the_speedup_set_the_pace(contenders):
    made, _ = contenders
    assert {name: c.paces for name, c in made.items()} == {
        "sequential": True,
        "parallel": True,
        "threads": False,
        "silent": False,
    }
    assert {name: c.every for name, c in made.items()} == {
        "sequential": 1,
        "parallel": 1,
        "threads": arms.THREADS_EVERY,
        "silent": 1,
    }
    assert isinstance(made["threads"], Contender)


@pytest.mark.workers(1)
@pytest.mark.parametrize(("step", "taken"), [(0.1, 5), (0.01, 20), (2.0, 1)])
def test_slow_threads_take_fewer_steps_and_are_scaled_up(comm, monkeypatch, step, taken):
    """20 steps are asked for, and half a second is enough."""
    asked = []

    def timed(comm, run, first, steps):
        asked.append(steps)
        return steps * step

    monkeypatch.setattr(arms, "alone", timed)
    case = make_case(1)
    sequential = case.sequential()
    made = arms.arms(case, comm, sequential, sequential, None, Silent(comm))
    assert made["threads"].turn(0, 20) == pytest.approx(20 * step)
    assert asked == [1, taken]


@pytest.mark.workers(1)
def test_blas_has_a_thread_for_each_core_that_the_launch_may_use(monkeypatch):
    asked = []

    @contextmanager
    def limits(number):
        asked.append(number)
        yield

    monkeypatch.setattr(cores.threadpoolctl, "threadpool_limits", limits)
    monkeypatch.setattr(cores, "available", lambda: 7)
    monkeypatch.setattr(cores, "_settle", lambda: asked.append("settled"))
    with cores.all_cores():
        assert asked == [7]
    assert asked == [7, "settled"]


@pytest.mark.workers(1)
@pytest.mark.parametrize(
    ("used", "looks"),
    [
        ([0, 0, 0], 3),
        ([9, 9, 0, 0, 0], 5),
        ([9, 0, 0, 9, 0, 0, 0], 7),  # a thread that got no core for two looks
        ([9] * 200, 100),  # another thread works on: wait no longer than a second
    ],
)
def test_threads_have_stopped_when_none_has_run_in_three_looks(monkeypatch, used, looks):
    """`used`: milliseconds that this process used during each look of 10 ms."""
    clock = SimpleNamespace(now=0.0, used=0.0, looks=0)

    def sleep(seconds):
        clock.now += seconds
        clock.used += used[clock.looks] / 1e3
        clock.looks += 1

    fake = SimpleNamespace(
        monotonic=lambda: clock.now, process_time=lambda: clock.used, sleep=sleep
    )
    monkeypatch.setattr(cores, "time", fake)
    cores._settle()
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
