"""How soon is a net as good as is wanted, in seconds instead of steps per second?

Trains a net on `digits` plainly and on all ranks, several times from different seeds, with the
clock stopped while loss and accuracy are looked at. Leaves the curves beside the other results, as
JSON and as a plot. Not part of the common grid: name the file to run it.
"""

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import cycle, islice
from pathlib import Path

import matplotlib
import numpy as np
import psutil
import pytest
from mpi4py import MPI

import nn
from bench.conftest import RUN, hold
from bench.core.arms import sleeping_barrier
from bench.core.cores import available
from bench.core.grid import MLP_SIZES, optimizer
from bench.report.promises import Promise
from nn import Batch
from nn.data import Dataset
from strategies import Hogwild, LocalSGD, Sequential, SharedDataParallel, Strategy

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


@dataclass
class Curve:
    """One training run: what had been reached after so many seconds of training.

    Attributes:
        seconds: of training alone, at each look; loss and accuracy likewise.
        loss: mean over the first LOSS_ROWS training rows.
        accuracy: share of the test rows.
        classes: accuracy on each class at the end.
    """

    arm: str
    seed: int
    seconds: list[float] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)
    classes: list[float] = field(default_factory=list)

    @property
    def seconds_to_target(self) -> float:
        """Infinity if it was never reached."""
        return next((s for s, a in zip(self.seconds, self.accuracy) if a >= TARGET), np.inf)


@contextmanager
def training(arm: Arm, seed: int, comm: MPI.Intracomm) -> Iterator[Strategy]:
    """A fresh strategy; the same initial weights for the same seed, whatever the arm."""
    model = nn.mlp(MLP_SIZES, seed=seed)
    strategy = arm.build(model, optimizer(), MPI.COMM_SELF if arm.alone else comm)
    yield strategy
    strategy.close()


def train(arm: Arm, seed: int, data: Dataset, comm: MPI.Intracomm) -> Curve:
    """Train for EPOCHS. Collective; the curve is that of rank 0."""
    curve = Curve(arm.name, seed)
    batches = list(data.batches(arm.rows, EPOCHS, seed))
    judge = nn.mlp(MLP_SIZES)
    x, y = Batch(data.x, data.y).part(0, len(data.y) // LOSS_ROWS)
    seconds = 0.0
    with training(arm, seed, comm) as strategy:
        for lo in range(0, len(batches), EVERY):
            if comm.rank == 0 or not arm.alone:
                strategy.comm.Barrier()
                start = time.perf_counter()
                for batch in batches[lo : lo + EVERY]:
                    strategy.step(batch)
                strategy.comm.Barrier()
                seconds += time.perf_counter() - start
                judge.params[:] = strategy.weights()
            if comm.rank == 0:
                right = judge.predict(data.x_test) == data.y_test
                curve.seconds.append(seconds)
                curve.loss.append(float(nn.cross_entropy(judge.forward(x)[0], y, len(y))[0]))
                curve.accuracy.append(float(np.mean(right)))
            sleeping_barrier(comm)
    if comm.rank == 0:
        of_class = [right[data.y_test == label] for label in range(data.classes)]
        curve.classes = [float(np.mean(r)) for r in of_class]
    return curve


def load(arm: Arm, data: Dataset, comm: MPI.Intracomm) -> list[float]:
    """Cores that all ranks use together, one value per NAP. Waiting by spinning counts as use.

    Rank 0 watches the processes of all ranks, which are on this machine, from a thread.
    """
    pids = np.empty(comm.size, np.int64)
    comm.Allgather(np.array([os.getpid()]), pids)
    processes = [psutil.Process(int(pid)) for pid in pids]
    cores: list[float] = []
    over = threading.Event()

    def used() -> float:
        return sum(times.user + times.system for times in (p.cpu_times() for p in processes))

    def watch() -> None:
        last, then = used(), time.perf_counter()
        while not over.wait(NAP):
            now, at = used(), time.perf_counter()
            cores.append((now - last) / (at - then))
            last, then = now, at

    watcher = threading.Thread(target=watch)
    steps = np.zeros(1, np.int64)
    with training(arm, 0, comm) as strategy:
        batches = list(data.batches(arm.rows))
        if comm.rank == 0 or not arm.alone:
            start = time.perf_counter()
            for batch in batches:
                strategy.step(batch)
            steps[0] = LOAD_SECONDS / (time.perf_counter() - start) * len(batches)
        comm.Bcast(steps)
        if comm.rank == 0:
            watcher.start()
        if comm.rank == 0 or not arm.alone:
            for batch in islice(cycle(batches), int(steps[0])):
                strategy.step(batch)
        over.set()
        sleeping_barrier(comm)
        if comm.rank == 0:
            watcher.join()
    return cores


def plot(curves: dict[str, list[Curve]], loads: dict[str, list[float]], path: Path) -> None:
    """Loss and accuracy against time (median run and range over seeds), load, classes."""
    figure, ((loss, accuracy), (cores, classes)) = plt.subplots(
        2, 2, figsize=(12, 8), layout="constrained"
    )
    for i, (name, runs) in enumerate(curves.items()):
        seconds = np.median([run.seconds for run in runs], axis=0)
        for axes, values in (
            (loss, [run.loss for run in runs]),
            (accuracy, [run.accuracy for run in runs]),
        ):
            axes.plot(seconds, np.median(values, axis=0), color=f"C{i}", label=name)
            low, high = np.min(values, axis=0), np.max(values, axis=0)
            axes.fill_between(seconds, low, high, color=f"C{i}", alpha=0.15, linewidth=0)
        reached = float(np.median([run.seconds_to_target for run in runs]))
        accuracy.plot(reached, TARGET, "o", color=f"C{i}")
        cores.plot(NAP * np.arange(1, len(loads[name]) + 1), loads[name], color=f"C{i}")
        width = 0.8 / len(curves)
        at = np.arange(len(runs[0].classes)) + (i - (len(curves) - 1) / 2) * width
        classes.bar(at, np.mean([run.classes for run in runs], axis=0), width, color=f"C{i}")
    loss.set(yscale="log", ylabel="training loss", xlabel="seconds of training")
    accuracy.axhline(TARGET, color="grey", linewidth=0.8, linestyle="--")
    accuracy.set(ylim=(0.85, 1), ylabel="test accuracy", xlabel="seconds of training")
    cores.set(ylim=(0, available() + 0.2), ylabel="cores in use", xlabel="seconds of training")
    classes.set(ylim=(0.85, 1), ylabel="test accuracy", xlabel="class")
    classes.set_xticks(range(len(runs[0].classes)))
    loss.legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)


@pytest.mark.workers(2)
def test_time_to_accuracy(request, comm, record, lap):
    """Free-running workers get there in less time than one thread."""
    data = nn.data.load("digits", 10_000)
    lap()
    curves: dict[str, list[Curve]] = {arm.name: [] for arm in ARMS}
    for seed in range(SEEDS):
        for arm in ARMS:
            curves[arm.name].append(train(arm, seed, data, comm))
    foreign = lap()
    loads = {arm.name: load(arm, data, comm) for arm in ARMS}
    seconds, cores = np.empty((len(ARMS), SEEDS)), np.empty(len(ARMS))
    if comm.rank == 0:
        seconds[:] = [[run.seconds_to_target for run in runs] for runs in curves.values()]
        cores[:] = [np.mean(used) for used in loads.values()]
        path = request.config.stash[RUN].path.with_name("time_to_accuracy.json")
        path.parent.mkdir(parents=True, exist_ok=True)
        runs = [asdict(run) for of_arm in curves.values() for run in of_arm]
        path.write_text(json.dumps({"runs": runs, "cores_in_use": loads}))
        plot(curves, loads, path.with_suffix(".png"))
    comm.Bcast(seconds)
    comm.Bcast(cores)
    ratios = []
    for arm, times, used in zip(ARMS, seconds, cores):
        what = f"{arm.name}: {np.median(times):.2f} s to {TARGET:.0%}, {used:.1f} cores, over"
        over_first = float(np.median(times / seconds[0]))
        limit = 1.0 if arm.name in FREE_RUNNING else None
        ratios.append(Promise(f"{what} {ARMS[0].name}", over_first, limit))
        record(ratios[-1], "", [], {})
    hold(ratios, foreign, comm.size)
