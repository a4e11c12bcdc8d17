"""How soon is a net as good as is wanted, in seconds instead of steps per second?

Trains a net on `digits` plainly and on all ranks, several times from different seeds, with the
clock stopped while loss and accuracy are looked at. A training that never gets there counts as
slower than all that do. All have the learning rate of the grid, which is tuned for none of them.
Leaves each training as a record, and a plot of all of them beside the record file. Not part of the
common grid: name the file to run it.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from mpi4py import MPI

import nn
from bench.conftest import RUN
from bench.core.core_use import watched
from bench.core.cores import available
from bench.core.grid import MLP_SIZES, optimizer
from bench.studies.judging import judge
from nn.atomic_write import atomic_write
from nn.data import Dataset
from strategies import (
    History,
    Hogwild,
    LocalSGD,
    Sequential,
    SharedDataParallel,
    Strategy,
    train,
)
from strategies.comm.on_rank_0 import sleeping_barrier

matplotlib.use("Agg")
from matplotlib import pyplot as plt

TARGET = 0.95
"""Test accuracy that is wanted."""

EPOCHS, BATCH, SEEDS = 10, 256, 5
EVERY, LOSS_ROWS = 10, 2000
"""Steps between two looks at accuracy and loss, and the training rows of the loss."""

LOAD_SECONDS, NAP = 3.0, 0.25
"""The load of the cores is watched so long, so often, in a run that nothing interrupts."""


@dataclass(frozen=True)
class Arm:
    """A way to train: `build` a strategy, on all ranks or on one, for batches of `rows`."""

    name: str
    build: Callable[..., Strategy]
    alone: bool = False
    rows: int = BATCH


ARMS = [  # the first is what the others are compared with
    Arm("Sequential", Sequential, alone=True),
    # The batch of one of two Hogwild workers: more and smaller steps without a second process.
    Arm("Sequential, half the batch", Sequential, alone=True, rows=BATCH // 2),
    Arm("SharedDataParallel", SharedDataParallel),
    Arm("LocalSGD, period 10", partial(LocalSGD, period=10)),
    Arm("Hogwild", Hogwild),
]
FREE_RUNNING = ("LocalSGD, period 10", "Hogwild")


def seconds_to_target(history: History) -> float:
    """Training time until TARGET was reached; infinity if it never was."""
    return next((s for s, a in zip(*history.curve("accuracy")) if a >= TARGET), np.inf)


@contextmanager
def training(arm: Arm, seed: int, comm: MPI.Intracomm) -> Iterator[Strategy]:
    """A fresh strategy; the same initial weights for the same seed, whatever the arm."""
    model = nn.mlp(MLP_SIZES, seed=seed)
    strategy = arm.build(model, optimizer(), MPI.COMM_SELF if arm.alone else comm)
    yield strategy
    strategy.close()


def run(
    arm: Arm, data: Dataset, comm: MPI.Intracomm, seed: int = 0, **options: Any
) -> History | None:
    """Train on all ranks, or on rank 0 while the others sleep; the history is None on these."""
    with training(arm, seed, comm) as strategy:
        history = None
        if comm.rank == 0 or not arm.alone:
            history = train(strategy, data, batch_size=arm.rows, seed=seed, **options)
            history = replace(history, name=arm.name)
        sleeping_barrier(comm)
    return history


def load(arm: Arm, data: Dataset, comm: MPI.Intracomm) -> list[float]:
    """Cores that all ranks use together, one value per NAP. Waiting by spinning counts as use.

    Rank 0 watches the processes of all ranks, which are on this machine, from a thread.
    """
    pids = np.empty(comm.size, np.int64)
    comm.Allgather(np.array([os.getpid()]), pids)
    epoch = run(arm, data, comm, epochs=1)
    epochs = comm.bcast(epoch and max(1, round(LOAD_SECONDS / epoch.seconds[-1])))
    if comm.rank > 0:
        run(arm, data, comm, epochs=epochs)
        return []
    with watched({f"rank {rank}": int(pid) for rank, pid in enumerate(pids)}, NAP) as use:
        run(arm, data, comm, epochs=epochs)
    return [sum(each) for each in zip(*use.cores.values())]


def plot(histories: dict[str, list[History]], loads: dict[str, list[float]], path: Path) -> None:
    """Loss and accuracy against time (median run and range over seeds), load, classes."""
    figure, ((loss, accuracy), (cores, classes)) = plt.subplots(
        2, 2, figsize=(12, 8), layout="constrained"
    )
    for i, (name, runs) in enumerate(histories.items()):
        seconds = np.median([run.curve("loss")[0] for run in runs], axis=0)
        for axes, value in ((loss, "loss"), (accuracy, "accuracy")):
            values = [run.curve(value)[1] for run in runs]
            axes.plot(seconds, np.median(values, axis=0), color=f"C{i}", label=name)
            low, high = np.min(values, axis=0), np.max(values, axis=0)
            axes.fill_between(seconds, low, high, color=f"C{i}", alpha=0.15, linewidth=0)
        reached = float(np.median([seconds_to_target(run) for run in runs]))
        accuracy.plot(reached, TARGET, "o", color=f"C{i}")
        cores.plot(NAP * np.arange(1, len(loads[name]) + 1), loads[name], color=f"C{i}")
        width = 0.8 / len(histories)
        last = [run.evaluations[-1].values for run in runs]
        labels = [value for value in last[0] if value.startswith("class ")]
        at = np.arange(len(labels)) + (i - (len(histories) - 1) / 2) * width
        means = [np.mean([values[label] for values in last]) for label in labels]
        classes.bar(at, means, width, color=f"C{i}")
    loss.set(yscale="log", ylabel="training loss", xlabel="seconds of training")
    accuracy.axhline(TARGET, color="grey", linewidth=0.8, linestyle="--")
    accuracy.set(ylim=(0.85, 1), ylabel="test accuracy", xlabel="seconds of training")
    cores.set(ylim=(0, available() + 0.2), ylabel="cores in use", xlabel="seconds of training")
    classes.set(ylim=(0.85, 1), ylabel="test accuracy", xlabel="class")
    classes.set_xticks(range(len(labels)))
    loss.legend()
    with atomic_write(path) as file:
        figure.savefig(file, dpi=110, format=path.suffix[1:])
    plt.close(figure)


@pytest.mark.workers(2)
def test_time_to_accuracy(request, comm, record, promise, lap):
    """Free-running workers get there in less time than one thread."""
    data = nn.data.load("digits", 10_000)
    lap()
    histories: dict[str, list[History]] = {arm.name: [] for arm in ARMS}
    for seed in range(SEEDS):
        for arm in ARMS:
            options = {
                "epochs": EPOCHS,
                "every": EVERY,
                "evaluate": judge(data, nn.mlp(MLP_SIZES), LOSS_ROWS),
            }
            if history := run(arm, data, comm, seed, **options):
                record(history)
                histories[arm.name].append(history)
    machine = {"background_load": [lap()]}
    loads = {arm.name: load(arm, data, comm) for arm in ARMS}
    seconds, cores = np.empty((len(ARMS), SEEDS)), np.empty(len(ARMS))
    if comm.rank == 0:
        seconds[:] = [[seconds_to_target(run) for run in runs] for runs in histories.values()]
        cores[:] = [np.mean(used) for used in loads.values()]
        path = request.config.stash[RUN].path.with_name("time_to_accuracy.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        plot(histories, loads, path)
    comm.Bcast(seconds)
    comm.Bcast(cores)
    for arm, times, used in zip(ARMS, seconds, cores):
        what = f"{arm.name}: {np.median(times):.2f} s to {TARGET:.0%}, {used:.1f} cores, over"
        over_first = float(np.median(times / seconds[0]))
        limit = 1.0 if arm.name in FREE_RUNNING else None
        what += f" {ARMS[0].name}"
        promise(what, over_first, limit, machine=machine, cores_in_use=loads[arm.name])
