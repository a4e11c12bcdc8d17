"""What does it cost to run tasks side by side, and how well are the workers kept busy?

An empty task on two workers that are warm, by ways to have it run, in turns; tasks of unequal
length, against the time that nobody can beat: the longest task, or the workers' even share; and the
same trainings on one rank each or on several together, in turns. Not part of the common grid: name
the file to run it.
"""

import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from joblib import Parallel, delayed
from mpi4py import MPI

from bench.core.turns import Contender, Turn, ratio, take_turns
from bench.report.promises import Promise
from nn import SGD, data, mlp
from strategies import DataParallel, train
from strategies.tasks import Workers, current, run_tasks

OVERHEAD = 0.005
"""Seconds that a task may cost beside its own work."""

MAKESPAN = 1.05
"""Times the time that nobody can beat."""

EMPTY = abs
"""A task without work, whose module imports no MPI: other pools hand on the variables of a rank."""

ROUNDS, STEPS = 9, 50
LENGTHS = 24

run = partial(run_tasks, progress=False)


def multiply(task: dict[str, int]) -> None:
    """Do as much work as the task says."""
    a = np.random.default_rng(0).normal(size=(300, 300))
    for _ in range(task["times"]):
        a = np.tanh(a @ a)


@pytest.mark.workers(1)
def test_overhead(record: Any, promise: Any, lap: Any, tmp_path: Path) -> None:
    def kept(first: int, count: int) -> None:
        run(EMPTY, numbers(first, count), workers, journal=tmp_path / f"{time.time_ns()}.jsonl")

    def seconds(call: Any) -> Turn:
        def turn(first: int, count: int) -> float:
            began = time.perf_counter()
            call(first, count)
            return time.perf_counter() - began

        return turn

    with (
        Workers(2) as workers,
        ProcessPoolExecutor(2, get_context("spawn")) as pool,
        Parallel(2, backend="loky") as parallel,
    ):
        calls = {
            "run_tasks": lambda first, count: run(EMPTY, numbers(first, count), workers),
            "run_tasks with a journal": kept,
            "concurrent.futures": lambda first, count: list(pool.map(EMPTY, numbers(first, count))),
            "joblib (loky)": lambda first, count: parallel(
                delayed(EMPTY)(number) for number in numbers(first, count)
            ),
        }
        contenders = {name: Contender(seconds(call)) for name, call in calls.items()}
        for contender in contenders.values():  # to warm up
            contender.turn(0, 2)
        times = take_turns(contenders, ROUNDS, steps=STEPS).per_step
    for name in list(calls)[1:]:
        what = f"an empty task by {name}: {np.median(times[name]) * 1e3:.2f} ms, over run_tasks"
        record(Promise(what, ratio(times[name], times["run_tasks"]), None))
    load = {"background_load": [lap()]}
    for name in list(calls)[:2]:
        took = float(np.median(times[name]))
        what = f"an empty task by {name}: {1e3 * took:.2f} ms, over 5 ms"
        promise(what, took / OVERHEAD, 1.0, cores=2, machine=load)


def numbers(first: int, count: int) -> list[int]:
    return list(range(first, first + count))


@pytest.mark.workers(1)
def test_makespan(promise: Any) -> None:
    count = MPI.COMM_WORLD.size
    times = np.random.default_rng(0).integers(20, 200, LENGTHS)
    tasks = [{"number": i, "times": int(each)} for i, each in enumerate(times)]
    ratios, lasted = [], []
    with Workers(count) as workers:
        run(multiply, [{"number": i, "times": 1} for i in range(4 * count)], workers)
        for _ in range(5):
            began = time.perf_counter()
            outcomes = run(multiply, tasks, workers, costs=times.tolist())
            lasted.append(time.perf_counter() - began)
            own = [outcome.seconds for outcome in outcomes]
            ratios.append(lasted[-1] / max(sum(own) / count, max(own)))
    what = f"{LENGTHS} tasks on {count} workers, over the time that nobody can beat"
    promise(what, float(np.median(ratios)), MAKESPAN, lasted, cores=count)


def train_together(task: dict[str, float]) -> tuple[float, float]:
    """Train on the ranks of the task, which may be one; return when it began and when it ended."""
    began = time.monotonic()  # the same clock in all processes of a host
    net = mlp([784, 256, 128, 10], seed=current().seed)
    strategy = DataParallel(net, SGD(task["rate"]), current().comm)
    train(strategy, data.load("digits", size=2000), batch_size=256, epochs=10)
    strategy.close()
    return began, time.monotonic()


@pytest.mark.workers(2, 4)
def test_ranks_per_task(comm: MPI.Intracomm, record: Any) -> None:
    """Which split of the ranks is fastest, for as many trainings as ranks twice over?

    From the beginning of the first training to the end of the last one: tasks of one rank have
    processes of their own, whose start would count against short trainings.
    """
    tasks = [{"rate": 0.01 * (1 + i)} for i in range(2 * comm.size)]
    splits = [n for n in range(1, comm.size + 1) if n in (1, comm.size) or (comm.size - 1) % n == 0]

    def turn(each: int) -> Turn:
        def whole_run(first: int, count: int) -> float:
            outcomes = run(train_together, tasks, comm, ranks_per_task=each)
            assert not [outcome.error for outcome in outcomes if outcome.error]
            began, ended = zip(*(outcome.value for outcome in outcomes))
            return max(ended) - min(began)

        return whole_run

    contenders = {f"{each}": Contender(turn(each)) for each in splits}
    times = take_turns(contenders, 3, steps=1).per_step
    for each, seconds in times.items():
        what = (
            f"{len(tasks)} trainings, {each} of {comm.size} ranks each: {np.median(seconds):.2f} s"
        )
        record(Promise(f"{what}, over 1 rank each", ratio(seconds, times["1"]), None))
