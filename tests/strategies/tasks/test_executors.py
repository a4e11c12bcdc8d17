"""Executors that the user brings give the same outcomes, and fail as far as theirs is to fail."""

import os
import warnings
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context

import pytest

from strategies.launchers import without_launcher
from strategies.tasks import Workers, run_tasks
from tests.strategies.tasks.functions import draw, misbehaves, shuffled, values
from tests.support.optional import needs

pytestmark = pytest.mark.workers(1)

run = partial(run_tasks, progress=False)


@pytest.fixture
def alone(monkeypatch):
    """Have processes that a test starts be worlds of their own."""
    kept = without_launcher(os.environ)
    for name in set(os.environ) - set(kept):
        monkeypatch.delenv(name)
    monkeypatch.setenv("OMPI_MCA_btl", "self")


@contextmanager
def processes(count):
    with ProcessPoolExecutor(count, mp_context=get_context("spawn")) as pool:
        yield pool


@contextmanager
def loky(count):
    from joblib.externals.loky import ProcessPoolExecutor

    with ProcessPoolExecutor(count) as pool:
        yield pool


@contextmanager
def dask(count):
    """An executor of Dask, on a cluster of `count` processes on this machine."""
    from distributed import Client, LocalCluster

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own, such as of sockets that are closed late
        with (
            LocalCluster(
                n_workers=count, threads_per_worker=1, dashboard_address=":0", silence_logs=50
            ) as cluster,
            Client(cluster) as client,
        ):
            yield client.get_executor()


class Backwards(Executor):
    """Runs what was submitted in the opposite order, as soon as all of it has been."""

    def __init__(self, count):
        self.calls, self.count = [], count

    def submit(self, function, /, *args):
        future = Future()
        self.calls.append((future, function, args))
        if len(self.calls) == self.count:
            for each, call, given in reversed(self.calls):
                each.set_result(call(*given))
        return future


@pytest.fixture(scope="module")
def serial():
    return values(run(draw, shuffled(12)))


def of_its_own(outcomes):
    """Outcomes without what was drawn from the generators that a process shares."""
    return [(task, {**value, "shared": None}, *rest) for task, value, *rest in outcomes]


def equals_serial(kind, serial, compared=list):
    ended = []
    with kind(2) as executor:
        outcomes = run(
            draw, shuffled(12), executor, then=lambda each: ended.append(each.task["number"]) or ()
        )
    assert compared(values(outcomes)) == compared(serial)
    assert sorted(ended) == list(range(12)) != ended


@pytest.mark.parametrize("kind", [processes, loky])
def test_executors_equal_serial_to_the_bit(serial, alone, kind):
    equals_serial(kind, serial)


def test_threads_equal_serial_to_the_bit(serial):
    equals_serial(ThreadPoolExecutor, serial, of_its_own)


@needs("distributed")
@pytest.mark.deadline(120)
def test_two_processes_of_dask_equal_serial_to_the_bit(serial, alone):
    equals_serial(dask, serial, of_its_own)  # a thread of Dask's draws from the shared generators


def test_any_order_equals_serial_to_the_bit(serial):
    assert values(run(draw, shuffled(12), Backwards(12))) == serial


TASKS = [
    {"number": 0},
    {"number": 1, "do": "raise"},
    {"number": 2, "do": "sleep", "seconds": 20},
    {"number": 3, "do": "exit"},
    {"number": 4, "do": "return", "what": "lambda"},
    {"number": 5},
]


def test_a_task_that_fails_in_an_executor_is_an_outcome(alone):
    with processes(2) as executor:
        outcomes = run(misbehaves, TASKS, executor, limit=0.5)
    says = [None, "no 1", "limit=0.5", "SystemExit: 3", "ickl", None]
    assert [each.task for each in outcomes] == TASKS
    for outcome, text in zip(outcomes, says):
        assert (outcome.error is None) if text is None else (text in outcome.error)


def test_a_thread_is_interrupted_when_its_time_is_over():
    def spins(task):
        while task:
            pass
        return "done"

    with ThreadPoolExecutor(2) as executor:
        outcomes = run(spins, [0, 1], executor, limit=0.3)
    assert outcomes[0].value == "done"
    assert outcomes[1].error == "the task took longer than limit=0.3 seconds, and was ended"


def test_an_executor_that_breaks_says_so_for_all_that_had_not_ended(alone):
    """Nobody but its owner can build it anew."""
    tasks = [
        {"number": 0},
        {"number": 1, "do": "die", "times": 9},
        *({"number": 2 + i} for i in range(4)),
    ]
    with processes(1) as executor:
        outcomes = run(misbehaves, tasks, executor)
    assert [each.task for each in outcomes] == tasks
    assert outcomes[0].value == {"number": 0, "attempt": 1}
    assert "the executor broke under this task or one beside it" in outcomes[1].error
    assert "Give a number of workers" in outcomes[-1].error


@needs("distributed")
@pytest.mark.deadline(120)
def test_a_task_that_kills_workers_of_dask_fails_alone(alone):
    """Dask starts it on other workers, as often as its configuration allows, and then gives up."""
    import dask as configuration

    tasks = [{"number": 0}, {"number": 1, "do": "die", "times": 9}, {"number": 2}]
    with (
        configuration.config.set({"distributed.scheduler.allowed-failures": 1}),
        dask(2) as executor,
    ):
        outcomes = run(misbehaves, tasks, executor)
    assert "KilledWorker" in outcomes[1].error
    assert [each.error for each in outcomes[::2]] == [None, None]


@pytest.mark.parametrize("kind", [ThreadPoolExecutor, Workers])
def test_an_executor_that_was_shut_down_is_refused_and_fails_no_task(kind, tmp_path):
    with kind(1) as executor:
        pass
    journal = tmp_path / "run.jsonl"
    with pytest.raises(RuntimeError, match=r"takes no task.*expected one that has not been shut d"):
        run(draw, shuffled(2), executor, journal=journal)
    assert journal.read_text() == ""


def test_what_has_not_begun_is_cancelled_when_the_run_ends():
    class Lazy(Executor):
        def __init__(self):
            self.futures = []

        def submit(self, function, /, *args):
            future = Future()
            self.futures.append(future)
            if len(self.futures) == 3:
                self.futures[0].set_result(function(*args))
            return future

    def then(outcome):
        raise KeyboardInterrupt

    lazy = Lazy()
    with pytest.raises(KeyboardInterrupt):
        run(draw, shuffled(3), lazy, then=then)
    assert [each.cancelled() for each in lazy.futures] == [False, True, True]
