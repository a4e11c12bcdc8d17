"""Ranks of a launch execute tasks: each by a worker of its own, or several together."""

import os
import time
from functools import partial

import numpy as np
import pytest
from mpi4py import MPI

from nn import SGD, data, mlp
from strategies import DataParallel, Sequential, train
from strategies.tasks import current, ranks, run_tasks
from tests.strategies.tasks.functions import draw, misbehaves, shuffled, values

run = partial(run_tasks, progress=False)


@pytest.fixture
def path(comm, tmp_path):
    """One file for all ranks."""
    return comm.bcast(tmp_path) / "run.jsonl"


def test_ranks_equal_serial_to_the_bit(comm):
    outcomes = run(draw, shuffled(12), comm)
    expected = values(run(draw, shuffled(12)) if comm.rank == 0 else [])
    assert values(outcomes) == comm.bcast(expected)


def pid(task):
    time.sleep(0.05)
    return os.getpid()


def test_every_rank_has_a_working_process(comm):
    outcomes = run(pid, list(range(4 * comm.size)), comm)
    found = {each.value for each in outcomes}
    assert len(found) == comm.size
    assert not found & set(comm.allgather(os.getpid()))  # what dies is no rank


@pytest.mark.workers(1, 2, 3)
def test_a_death_costs_its_task_and_no_rank(comm):
    tasks = [{"number": i, "do": "die", "times": i % 3} for i in range(6)]
    tasks += [{"number": 6, "do": "raise"}, {"number": 7, "do": "sleep", "seconds": 20}]
    outcomes = run(misbehaves, tasks, comm, limit=2)
    assert [each.attempts for each in outcomes] == [1, 2, 2, 1, 2, 2, 1, 1]
    assert [each.error is None for each in outcomes[:6]] == [True, True, False] * 2
    assert "while it ran this task, in 2 attempts" in outcomes[2].error
    assert "ValueError: no 6" in outcomes[6].error
    assert "limit=2 seconds" in outcomes[7].error
    assert comm.allreduce(1) == comm.size


@pytest.mark.workers(2)
def test_rank_0_keeps_the_journal_and_every_rank_gets_the_outcomes(comm, path):
    first = run(draw, shuffled(6), comm, journal=path)
    again = run(draw, shuffled(6), comm, journal=path)
    assert values(again) == values(first)
    assert [each.seconds for each in again] == [each.seconds for each in first]
    assert len(comm.bcast(path.read_text()).splitlines()) == 7


@pytest.mark.workers(2)
def test_what_rank_0_raises_is_raised_on_every_rank(comm, path):
    run(draw, shuffled(6), comm, journal=path)
    with pytest.raises(ValueError, match="is of another run: it has 6 tasks, not 5"):
        run(draw, shuffled(5), comm, journal=path)

    def then(outcome):
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        run(draw, shuffled(6), comm, then=then)
    assert comm.allreduce(1) == comm.size


@pytest.mark.workers(2)
@pytest.mark.parametrize("change", ["tasks", "function", "seed"])
def test_ranks_that_are_told_differently_are_refused(comm, change):
    function = misbehaves if change == "function" and comm.rank else draw
    tasks = shuffled(6 if change == "tasks" and comm.rank else 5)
    with pytest.raises(ValueError, match=r"ranks \[1\] call run_tasks with another function"):
        run(function, tasks, comm, seed=int(change == "seed" and comm.rank))


# Several ranks for a task


def trained_together(task):
    """Train by data parallelism on the ranks of the task."""
    comm = current().comm
    strategy = DataParallel(
        mlp([4, 8, 3], seed=1, dtype="float64"), SGD(task["rate"], momentum=0.9), comm
    )
    history = train(strategy, data.load("iris"), batch_size=32, epochs=2, seed=current().seed)
    return {"weights": strategy.weights(), "loss": history.loss, "ranks": comm.size}


def trained_alone(task):
    strategy = Sequential(mlp([4, 8, 3], seed=1, dtype="float64"), SGD(task["rate"], momentum=0.9))
    history = train(strategy, data.load("iris"), batch_size=32, epochs=2, seed=current().seed)
    return {"weights": strategy.weights(), "loss": history.loss}


RATES = [{"rate": rate} for rate in (0.01, 0.05, 0.1)]


@pytest.mark.workers(2, 3, 4)
@pytest.mark.parametrize("together", [2, 3])
def test_tasks_train_on_groups_of_ranks(comm, together):
    if comm.size != together and (comm.size - 1) % together:
        with pytest.raises(ValueError, match=rf"ranks_per_task={together} on {comm.size} ranks"):
            run(trained_together, RATES, comm, ranks_per_task=together)
        return
    outcomes = run(trained_together, RATES, comm, ranks_per_task=together)
    assert [each.error for each in outcomes] == [None] * 3
    for outcome, alone in zip(outcomes, run(trained_alone, RATES)):
        assert outcome.value["ranks"] == together
        np.testing.assert_allclose(
            outcome.value["weights"], alone.value["weights"], atol=1e-12, rtol=0
        )
    assert not np.array_equal(outcomes[0].value["weights"], outcomes[1].value["weights"])


def raises_on_some(task):
    if task["number"] == 1 and current().comm.rank == task["rank"]:
        raise ValueError(f"rank {task['rank']} of {current().comm.size}")
    return task["number"]


@pytest.mark.workers(2, 3)
@pytest.mark.parametrize("rank", [0, 1])
def test_a_task_that_raises_on_one_of_its_ranks_is_an_outcome(comm, rank):
    tasks = [{"number": i, "rank": rank} for i in range(3)]
    outcomes = run(raises_on_some, tasks, comm, ranks_per_task=2)
    assert [each.value for each in outcomes] == [0, None, 2]
    assert f"ValueError: rank {rank} of 2" in outcomes[1].error


@pytest.mark.workers(2)
def test_a_rank_that_waits_for_one_that_raised_ends_with_the_launch(comm, monkeypatch):
    """Nothing hangs: MPI cannot free the rank that waits, so that the launch ends, and says why."""
    ended = []
    monkeypatch.setattr(ranks, "PATIENCE", 0.1)
    monkeypatch.setattr(ranks, "_give_up", lambda *told: ended.append(told))

    def waits(task):
        if current().comm.rank == 0:
            raise ValueError("alone")
        time.sleep(0.5)  # in place of a collective, which never ends

    outcomes = run(waits, [1], comm, ranks_per_task=2)
    assert "alone" in outcomes[0].error
    assert bool(ended) == (comm.rank == 0)


@pytest.mark.workers(3)
def test_a_limit_with_several_ranks_is_refused(comm):
    with pytest.raises(ValueError, match=r"limit=1\.0 with ranks_per_task=2: expected none"):
        run(draw, shuffled(2), comm, ranks_per_task=2, limit=1)


@pytest.mark.workers(1)
def test_mpi_is_all_ranks(monkeypatch):
    assert [each.value for each in run(abs, [-1, 2], MPI.COMM_SELF)] == [1, 2]
    monkeypatch.setattr(MPI, "COMM_WORLD", MPI.COMM_SELF)
    monkeypatch.setenv("LOCKSTEP_RANKS", "1")  # alone on purpose
    assert [each.value for each in run(abs, [-1, 2], "mpi")] == [1, 2]


@pytest.mark.workers(1)
def test_a_launch_of_which_mpi_knows_nothing_is_refused(monkeypatch):
    monkeypatch.setattr("strategies.tasks.executors.worlds_of_one", lambda: "torchrun has started")
    with pytest.raises(RuntimeError, match="torchrun has started"):
        run(abs, [1], "mpi")
