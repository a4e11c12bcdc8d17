"""A worker may die, hang or be interrupted, and costs nobody but its own task anything."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import CancelledError
from contextlib import suppress
from functools import partial
from pathlib import Path

import psutil
import pytest

from strategies.launchers import without_launcher
from strategies.tasks import Workers, current, run_tasks, worker
from strategies.tasks.worker import Closed, Worker, WorkerDied
from tests.strategies.tasks.functions import draw, draws, misbehaves, trained, values

pytestmark = pytest.mark.workers(1)

ROOT = Path(__file__).parents[3]

run = partial(run_tasks, progress=False)


def children():
    return {child.pid for child in psutil.Process().children(recursive=True)}


def gone(pids, seconds=5.0):
    """Whether these processes have ended, or end soon."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        if not any(psutil.pid_exists(pid) and not is_zombie(pid) for pid in pids):
            return True
        time.sleep(0.01)
    return False


def is_zombie(pid):
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


# Death


@pytest.mark.parametrize(
    ("do", "how"),
    [
        ({"do": "die", "signal": signal.SIGKILL}, "SIGKILL"),
        ({"do": "die", "signal": signal.SIGSEGV}, "SIGSEGV"),
        ({"do": "end"}, "exit code 7"),
    ],
    ids=["SIGKILL", "SIGSEGV", "_exit"],
)
def test_a_death_costs_one_retry_and_two_are_reported(pair, do, how):
    tasks = [{"number": 0}, {"number": 1, "times": 1, **do}, {"number": 2, "times": 2, **do}]
    tasks += [{"number": 3 + i, "do": "sleep", "seconds": 0.05} for i in range(6)]
    outcomes = run(misbehaves, tasks, pair)
    assert [each.task for each in outcomes] == tasks
    assert outcomes[1].value == {"number": 1, "attempt": 2}
    assert outcomes[1].error is None
    assert outcomes[2].value is None
    assert how in outcomes[2].error
    assert "while it ran this task, in 2 attempts" in outcomes[2].error
    # Neighbours ran once, and are right.
    assert [each.attempts for each in outcomes] == [1, 2, 2, *[1] * 6]
    assert [each.value["attempt"] for each in outcomes if each.value] == [1, 2, *[1] * 6]


def test_a_neighbour_that_is_at_work_is_left_alone(pair):
    def nap(number):
        return {"number": number, "do": "sleep", "seconds": 0.5}

    run(misbehaves, [nap(8), nap(9)], pair)  # both workers are there, so both begin at once
    outcomes = run(misbehaves, [nap(0), {"number": 1, "do": "die", "times": 1}], pair)
    assert [each.attempts for each in outcomes] == [1, 2]
    assert [each.error for each in outcomes] == [None, None]


@pytest.mark.parametrize("retries", [0, 2])
def test_retries_are_as_many_as_asked_for(pair, retries):
    tasks = [{"number": i, "do": "die", "times": i} for i in range(4)]
    outcomes = run(misbehaves, tasks, pair, retries=retries)
    assert [each.error is None for each in outcomes] == [i <= retries for i in range(4)]
    assert [each.attempts for each in outcomes] == [min(i, retries) + 1 for i in range(4)]


def test_a_worker_that_dies_while_it_is_idle_costs_no_attempt(pair):
    pids = {each.value for each in run(lambda task: os.getpid(), list(range(4)), pair)}
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    outcomes = run(draw, draws(4), pair)
    assert [each.attempts for each in outcomes] == [1] * 4
    assert values(outcomes) == values(run(draw, draws(4)))


@pytest.mark.deadline(120)
def test_kills_at_random_moments_change_no_result(pair, tmp_path):
    """Each kill costs the task that ran there an attempt, and training goes on where it was."""
    tasks = [{"rate": 0.1 * i, "steps": str(tmp_path / f"{i}"), "sleeps": 0.01} for i in range(6)]
    undisturbed = run(trained, tasks, pair)
    rng, kills, ended = random.Random(0), [], threading.Event()

    def kill_now_and_then():
        """Kill a process that has taken a step since the last time, a little later."""
        before = [Path(task["steps"]).stat().st_size for task in tasks]
        while len(kills) < 20 and not ended.wait(0.002):
            steps = [Path(task["steps"]).stat().st_size for task in tasks]
            grown = [i for i in range(6) if steps[i] > before[i]]
            if not grown or ended.wait(rng.uniform(0, 0.02)):
                continue
            with suppress(ProcessLookupError):  # it has been killed for its last task
                kills.append(int(Path(f"{tasks[rng.choice(grown)]['steps']}.pid").read_text()))
                os.kill(kills[-1], signal.SIGKILL)
            before = [Path(task["steps"]).stat().st_size for task in tasks]

    killer = threading.Thread(target=kill_now_and_then)
    killer.start()
    outcomes = run(trained, tasks, pair, retries=25)
    ended.set()
    killer.join()
    assert len(kills) > 10
    assert sum(each.attempts for each in outcomes) > 10
    assert [each[:3] for each in values(outcomes)] == [each[:3] for each in values(undisturbed)]


def test_a_retried_training_goes_on_from_its_checkpoint_to_the_bit(pair, tmp_path):
    task = {"rate": 0.1, "steps": str(tmp_path / "steps"), "dies": [7, 12]}
    (outcome,) = run(trained, [task], pair, retries=2)
    steps = Path(task["steps"]).stat().st_size
    Path(task["steps"]).write_text("." * 100)  # it dies no more
    (alone,) = run(trained, [task])
    assert (outcome.error, outcome.attempts) == (None, 3)
    assert values([outcome])[0][1] == values([alone])[0][1]
    assert steps == len(outcome.value["loss"]) + 2  # the step that died was not written


def test_a_resumed_training_goes_on_from_its_checkpoint_to_the_bit(pair, tmp_path):
    task = {"rate": 0.1, "steps": str(tmp_path / "steps"), "dies": [9]}
    journal = tmp_path / "run.jsonl"
    (died,) = run(trained, [task], pair, retries=0, journal=journal)
    assert (died.value, died.attempts) == (None, 1)
    (resumed,) = run(trained, [task], pair, journal=journal)
    steps = Path(task["steps"]).stat().st_size
    Path(task["steps"]).write_text("." * 100)
    assert values([resumed]) == values(run(trained, [task]))
    assert steps == len(resumed.value["loss"]) + 1


# Time


@pytest.mark.parametrize("executor", [None, "pair"])
def test_a_task_that_takes_too_long_is_ended(request, executor):
    executor = request.getfixturevalue("pair") if executor else None
    tasks = [
        {"number": 0},
        {"number": 1, "do": "sleep", "seconds": 20},
        {"number": 2, "do": "sleep", "seconds": 0.1},
    ]
    began = time.monotonic()
    outcomes = run(misbehaves, tasks, executor, limit=0.5)
    assert time.monotonic() - began < 5
    assert outcomes[1].error == "the task took longer than limit=0.5 seconds, and was ended"
    assert (outcomes[1].value, outcomes[1].attempts) == (None, 1)
    assert 0.5 <= outcomes[1].seconds < 1
    assert [each.error for each in outcomes[::2]] == [None, None]


def test_a_task_that_spins_and_catches_everything_is_ended(pair):
    def stubborn(task):
        while True:
            with suppress(BaseException):
                time.sleep(10)

    (outcome,) = run(stubborn, [1], pair, limit=0.3)
    assert "limit=0.3" in outcome.error


def test_the_limit_does_not_count_the_start_of_a_worker(monkeypatch, tmp_path):
    (tmp_path / "takes_time.py").write_text("import time; time.sleep(1.2)")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(worker, "_preloaded", lambda: ["takes_time"])
    (outcome,) = run(draw, draws(1), 1, limit=1)
    assert outcome.error is None


# What cannot be sent


def test_a_value_that_cannot_be_sent_is_an_error_of_its_task(pair):
    outcomes = run(lambda task: threading.Lock() if task == 0 else task, [0, 1], pair)
    assert "cannot pickle '_thread.lock'" in outcomes[0].error
    assert (outcomes[0].value, outcomes[0].attempts, outcomes[1].value) == (None, 1, 1)
    returns = {"number": 0, "do": "return", "what": "lambda"}
    assert callable(run(misbehaves, [returns], pair)[0].value)


def test_a_function_that_cannot_be_sent_is_an_error(pair):
    lock = threading.Lock()
    outcomes = run(lambda task: lock.locked(), [0, 1], pair)
    assert ["cannot pickle" in each.error for each in outcomes] == [True, True]


# Processes


@pytest.mark.filterwarnings("ignore:3 workers share")
def test_a_finished_run_leaves_no_process_behind():
    before = children()

    def starts_another(task):
        return os.getpid(), subprocess.Popen(["sleep", "60"]).pid

    outcomes = run(starts_another, list(range(6)), 3)
    assert len({each.value[0] for each in outcomes}) > 1
    assert children() == before
    assert gone({pid for each in outcomes for pid in each.value})


DRIVER = """
import sys, time
from strategies.tasks import run_tasks
from tests.strategies.tasks.functions import draw, draws

if __name__ == "__main__":
    tasks = [*draws(6), *({"number": i, "sleeps": 60} for i in (6, 7, 8, 9))]
    run_tasks(draw, tasks, 2, journal=sys.argv[1])
"""


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_run_ends_every_worker_and_keeps_its_journal(tmp_path, sent):
    script, journal = tmp_path / "driver.py", tmp_path / "run.jsonl"
    script.write_text(DRIVER)
    environment = without_launcher(os.environ) | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, str(script), str(journal)],
        env=environment | {"OMPI_MCA_btl": "self"},
        stderr=subprocess.PIPE,
    )
    while not (journal.exists() and journal.read_bytes().count(b"\n") == 7):
        assert process.poll() is None
        time.sleep(0.01)
    workers = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
    assert len(workers) == 2
    process.send_signal(sent)
    _, error = process.communicate(timeout=10)
    assert process.returncode != 0
    if sent == signal.SIGINT:
        assert error.decode().count("KeyboardInterrupt") == 1  # and no worker says anything
    assert gone(workers)
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    assert sorted(line["task"]["number"] for line in lines[1:]) == list(range(6))


def test_workers_serve_other_calls_and_several_runs():
    with Workers(2) as workers:
        assert workers.submit(pow, 2, exp=5).result() == 32
        assert list(workers.map(abs, [-1, -2, 3])) == [1, 2, 3]
        with pytest.raises(ZeroDivisionError):
            workers.submit(divmod, 1, 0).result()
        with pytest.raises(WorkerDied, match="its worker died by SIGKILL"):
            workers.submit(os.kill, 0, signal.SIGKILL).result()
        pids = [{each.value for each in run(getpid, [1, 2, 3, 4], workers)} for _ in range(2)]
        assert len(pids[0] | pids[1]) <= 2
        sleeping = workers.submit(time.sleep, 60)
        waiting = [workers.submit(time.sleep, 60) for _ in range(3)]
        while not sleeping.running():
            time.sleep(0.01)
        began = time.monotonic()
        workers.kill()
        assert time.monotonic() - began < 5
        with pytest.raises(WorkerDied):
            sleeping.result()
        with pytest.raises(CancelledError):
            waiting[-1].result()
        assert workers.submit(pow, 2, 3).result() == 8


@pytest.mark.parametrize("raised", [KeyboardInterrupt, ValueError])
def test_workers_serve_again_after_a_run_that_was_interrupted(pair, raised):
    def then(outcome):
        raise raised("stop")

    sleeps = [{"number": i, "do": "sleep", "seconds": 60} for i in range(1, 4)]
    before = children()
    began = time.monotonic()
    with pytest.raises(raised, match="stop"):
        run(misbehaves, [{"number": 0}, *sleeps], pair, then=then)
    assert gone(children() - before)  # whatever they ran
    outcomes = run(draw, draws(4), pair)
    assert time.monotonic() - began < 15
    assert values(outcomes) == values(run(draw, draws(4)))


def test_a_call_that_has_not_reached_its_process_is_killed_too(monkeypatch):
    start, sleeping = Worker._start, threading.Event()

    def starts_late(self):
        sleeping.set()
        time.sleep(0.3)
        start(self)

    monkeypatch.setattr(Worker, "_start", starts_late)
    with Workers(1) as workers:
        call = workers.submit(time.sleep, 30)
        assert sleeping.wait(5)
        began = time.monotonic()
        workers.kill()
        assert call.done()
        assert time.monotonic() - began < 10


def test_a_worker_that_is_closed_under_a_call_says_so():
    workers = Workers(1)
    sleeping = workers.submit(time.sleep, 60)
    while not sleeping.running():
        time.sleep(0.01)
    workers.callers[0].close()
    with pytest.raises(Closed):
        sleeping.result()
    workers.shutdown()


class Refusal(BaseException):
    """What a task may raise that is no Exception, as `pytest.fail` does."""


@pytest.mark.parametrize(
    ("raised", "executor"), [(Refusal, None), (Refusal, "pair"), (KeyboardInterrupt, "pair")]
)
def test_what_is_raised_beside_exceptions_is_an_outcome_with_its_traceback(
    request, raised, executor
):
    executor = request.getfixturevalue("pair") if executor else None

    def refuses(task):
        if task:
            raise raised("not this one")
        return task

    outcomes = run(refuses, [0, 1], executor)
    assert (outcomes[0].value, outcomes[0].error) == (0, None)
    assert outcomes[1].attempts == 1
    assert "in refuses" in outcomes[1].error
    assert f"{raised.__name__}: not this one" in outcomes[1].error


def test_ctrl_c_ends_a_run_in_this_process():
    def interrupted(task):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(interrupted, [0])


def test_a_call_of_a_worker_may_raise_what_is_no_exception(pair):
    with pytest.raises(SystemExit):
        pair.submit(sys.exit, 3).result()


def test_a_process_that_closes_its_connection_has_a_moment_to_end_by_itself(pair):
    def ends_slowly(task):
        os.closerange(3, 256)
        time.sleep(0.2)
        os._exit(7)

    (outcome,) = run(ends_slowly, [0], pair, retries=0)
    assert "its worker ended with exit code 7" in outcome.error


def getpid(task):
    return os.getpid()


def test_a_worker_has_no_traces_of_the_launch(monkeypatch, pair):
    """Its MPI would take itself for the rank that started it."""
    for name in ("OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "LOCKSTEP_RANKS", "RANK"):
        monkeypatch.setenv(name, "1")

    def look(task):
        names = ("OMPI_COMM_WORLD", "PMIX_", "PMI_", "LOCKSTEP_RANKS", "RANK")
        from mpi4py import MPI

        found = [name for name in os.environ if name.startswith(names)]
        return found, MPI.COMM_WORLD.size, current().comm.size

    with Workers(1) as workers:
        found, *sizes = run(look, [1], workers)[0].value
    # What its own MPI has set is there again.
    assert [name for name in found if name in ("LOCKSTEP_RANKS", "RANK", "PMI_RANK")] == []
    assert sizes == [1, 1]


def test_input_of_a_task_is_empty(pair):
    assert run(lambda task: sys.stdin.read(), [1], pair)[0].value == ""


def test_workers_keep_freed_memory_unless_the_user_says_otherwise(monkeypatch):
    name = "MALLOC_TRIM_THRESHOLD_"
    monkeypatch.delenv(name, raising=False)
    with Workers(1) as workers:
        assert int(workers.submit(os.getenv, name).result()) > 2**20
    monkeypatch.setenv(name, "4096")
    with Workers(1) as workers:
        assert workers.submit(os.getenv, name).result() == "4096"
