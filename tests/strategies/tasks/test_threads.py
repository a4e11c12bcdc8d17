"""A task has the threads that it was given, everywhere, and cores are not oversubscribed."""

import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from multiprocessing import get_context

import numpy as np
import pytest
from joblib import cpu_count
from threadpoolctl import threadpool_info, threadpool_limits

from strategies.launchers import without_launcher
from strategies.tasks import Workers, current, run_tasks, worker
from strategies.tasks import threads as module
from strategies.tasks.keys import key_of
from strategies.tasks.threads import VARIABLES, threads_limited

pytestmark = pytest.mark.workers(1)

run = partial(run_tasks, progress=False)

ALL = 2
"""Threads that libraries would have by themselves here. They take no more than there are cores."""

needs_cores = pytest.mark.skipif(cpu_count() < ALL, reason="needs 2 cores")


@pytest.fixture
def unlimited(monkeypatch):
    """An environment in which libraries that are loaded have ALL threads."""
    kept = without_launcher(os.environ)
    for name in set(os.environ) - set(kept):
        monkeypatch.delenv(name)
    for name in VARIABLES:
        monkeypatch.setenv(name, str(ALL))
    monkeypatch.setenv("OMPI_MCA_btl", "self")


def seen(task):
    """The threads of each library here, and those that libraries loaded now would have."""
    with_torch = sys.modules["torch"].get_num_threads() if "torch" in sys.modules else None
    pools = {pool["num_threads"] for pool in threadpool_info()}
    return pools, with_torch, {os.environ.get(name) for name in VARIABLES}, current().threads


def test_workers_begin_with_their_threads(unlimited, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setattr(worker, "_preloaded", lambda: ["torch"])
    (outcome,) = run(seen, [0], 1)
    assert outcome.value == ({1}, 1, {"1"}, 1)


@needs_cores
def test_workers_begin_with_several_threads(unlimited, monkeypatch):
    for name in VARIABLES:
        monkeypatch.setenv(name, "1")
    (outcome,) = run(seen, [0], 1, threads=2)
    assert outcome.value == ({2}, None, {"2"}, 2)


@needs_cores
def test_tasks_elsewhere_are_held_to_their_threads_from_their_start(unlimited):
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
        before = executor.submit(info).result()
        outcomes = run(seen, [0, 1], executor)
        assert executor.submit(info).result() == before
    assert before == {ALL}
    assert [each.value for each in outcomes] == [({1}, None, {"1"}, 1)] * 2


def info():
    return {pool["num_threads"] for pool in threadpool_info()}


def test_a_task_in_this_process_is_held_and_the_process_is_not(unlimited):
    torch = pytest.importorskip("torch")
    mine = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        with threadpool_limits(2):
            before = info()
            (outcome,) = run(seen, [0])
            assert info() == before
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(mine)
    assert outcome.value[1:] == (1, {"1"}, 1)
    assert outcome.value[0] == {1}
    assert {os.environ[name] for name in VARIABLES} == {str(ALL)}


def waited(task):
    time.sleep(task)
    return info()


def in_threads(_):
    """What tasks see that run in threads of one process, and the process before and after."""
    import sklearn.cluster  # noqa: F401  # which loads OpenMP

    before = info()
    with ThreadPoolExecutor(2) as executor:
        outcomes = run(waited, [0.05, 0.3], executor)
    return before, [each.value for each in outcomes], info()


@needs_cores
def test_limits_last_until_the_last_thread_has_ended(unlimited):
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
        assert executor.submit(in_threads, 0).result() == ({ALL}, [{1}, {1}], {ALL})


def torch_in_threads(_):
    """The threads of torch in a task in another thread, and in the process after it."""
    import torch

    torch.set_num_threads(ALL)

    def computes(task):
        torch.rand(300, 300) @ torch.rand(300, 300)
        return torch.get_num_threads()

    with ThreadPoolExecutor(2) as executor:
        outcomes = run(computes, [0, 1], executor)
    return [each.value for each in outcomes], torch.get_num_threads()


def test_torch_is_held_in_threads_too(unlimited):
    pytest.importorskip("torch")
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
        assert executor.submit(torch_in_threads, 0).result() == ([1, 1], ALL)


def test_limits_are_lifted_after_an_error():
    with threadpool_limits(2):
        with pytest.raises(ZeroDivisionError), threads_limited(1):
            1 / 0  # noqa: B018
        assert info() != {1}


def test_variables_that_were_not_set_are_not_set_again(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    run(seen, [0])
    assert "OMP_NUM_THREADS" not in os.environ


def busy(task):
    """Cores that this process keeps busy while BLAS multiplies."""
    a = np.random.default_rng(0).normal(size=(700, 700))
    began, used = time.perf_counter(), time.process_time()
    while time.perf_counter() - began < 0.4:
        a @ a
    return (time.process_time() - used) / (time.perf_counter() - began)


def test_a_task_keeps_no_more_cores_busy_than_it_has_threads(unlimited):
    with Workers(2) as workers:
        own = run(busy, [0, 1, 2, 3], workers)
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as executor:
        brought = run(busy, [0, 1], executor)
    cores = [each.value for each in (*own, *brought)]
    assert max(cores) < 1.1
    assert len(cores) == 6


def test_threads_that_would_share_cores_are_refused(monkeypatch):
    monkeypatch.setattr(module, "cpu_count", lambda: 4)
    for executor, threads, most in ((2, 3, 2), (3, 2, 1), (8, 2, 1), (None, 5, 4)):
        with pytest.raises(ValueError, match=rf"threads={threads}.*expected at most {most},"):
            run(seen, [0], executor, threads=threads)
    with pytest.raises(ValueError, match="threads=3"):
        Workers(2, threads=3)


def test_workers_that_share_cores_are_named(monkeypatch):
    monkeypatch.setattr(module, "cpu_count", lambda: 1)
    with pytest.warns(UserWarning, match="2 workers share 1 cores: expected at most 1 workers"):
        outcomes = run(abs, [0, -1], 2)
    assert [each.value for each in outcomes] == [0, 1]


def test_cores_are_those_that_this_process_may_use():
    assert cpu_count() <= len(os.sched_getaffinity(0))


def test_workers_of_other_threads_are_refused(monkeypatch):
    monkeypatch.setattr(module, "cpu_count", lambda: 4)
    workers = Workers(1, threads=2)
    with workers, pytest.raises(ValueError, match="threads=1, but each of the Workers has 2"):
        run(seen, [0], workers)


def test_threads_are_a_part_of_the_key_and_of_no_seed(monkeypatch):
    monkeypatch.setattr(module, "cpu_count", lambda: 4)
    assert key_of({"a": 1}, 0, 1) != key_of({"a": 1}, 0, 2)
    drawn = [run(lambda task: current().seed, [1], threads=n)[0].value for n in (1, 2)]
    assert drawn[0] == drawn[1]
