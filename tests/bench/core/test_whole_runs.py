"""Whole runs: rank 0 has as many workers as there are ranks, and the others sleep."""

import os
import signal
import threading
import time
from functools import partial
from pathlib import Path

import psutil
import pytest

from bench.core.cores import allowed, unbound
from bench.core.turns import take_turns
from bench.core.whole_runs import outside_the_launch, pool, whole_run
from strategies.tasks import run_tasks

pytestmark = pytest.mark.alone


def process_and_cores(task: int) -> tuple[int, list[int]]:
    return os.getpid(), sorted(os.sched_getaffinity(0))


def worked_by_another(kill, workers) -> None:
    kill()
    run_tasks(settled, range(4), workers, progress=False)


def settled(task: int) -> None:
    time.sleep(0.1)


@pytest.mark.workers(2)
def test_there_is_a_worker_for_each_rank_and_none_is_bound_to_a_core_of_rank_0(comm) -> None:
    with pool(comm) as crew:
        assert (crew.workers is None) == (comm.rank > 0)
        if crew.workers:
            outcomes = run_tasks(process_and_cores, range(8), crew.workers, progress=False)
            assert {outcome.value[0] for outcome in outcomes} <= set(crew.pids.values())
            assert all(outcome.value[1] == sorted(allowed()) for outcome in outcomes)
            assert len(crew.pids) == crew.workers.size == comm.size
            uses = crew.uses(lambda: None, lambda: None)
            assert list(uses["parallel"].cores) == ["manager", *crew.pids]
            assert list(uses["serial"].cores) == ["the process"]
            kill = partial(os.kill, next(iter(crew.pids.values())), signal.SIGKILL)
            with pytest.raises(RuntimeError, match="ended or began in this run"):
                crew.uses(lambda: None, lambda: worked_by_another(kill, crew.workers))
        else:
            assert not crew.uses(lambda: None, lambda: None)
    assert not any(psutil.pid_exists(pid) for pid in crew.pids.values())


@pytest.mark.workers(2)
def test_a_run_is_made_by_rank_0_and_every_rank_hears_its_time(comm) -> None:
    made: list[int] = []
    times = take_turns({"run": whole_run(comm, lambda: made.append(1))}, 3, steps=1)
    assert len(made) == (3 if comm.rank == 0 else 0)
    assert comm.allgather(times.seconds) == [times.seconds] * comm.size


@pytest.mark.workers(1)
def test_processes_that_others_start_are_no_ranks(monkeypatch) -> None:
    monkeypatch.setenv("PMIX_RANK", "0")
    monkeypatch.setenv("MINE", "kept")
    before = dict(os.environ)
    with outside_the_launch():
        assert "PMIX_RANK" not in os.environ
        assert os.environ["MINE"] == "kept"
    assert dict(os.environ) == before


@pytest.mark.workers(1)
def test_a_thread_may_end_while_its_process_is_unbound() -> None:
    over = threading.Event()
    thread = threading.Thread(target=over.wait)
    thread.start()
    with unbound():
        over.set()
        thread.join()
        while Path(f"/proc/self/task/{thread.native_id}").exists():  # the system is a little later
            time.sleep(0.001)


@pytest.mark.workers(1)
def test_a_process_is_unbound_for_a_while() -> None:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        with unbound():
            inside = os.sched_getaffinity(0)
        assert os.sched_getaffinity(0) == {min(before)}
    finally:
        os.sched_setaffinity(0, before)
    assert inside >= {min(before)}
