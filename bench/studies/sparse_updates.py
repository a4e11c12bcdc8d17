"""Does Hogwild pay where its theory applies, on sparse gradients, as well as on dense ones?

Every arm makes updates of equally many rows, from the same initial weights, in the same order of
rows; against Hogwild on one worker, which is plain training. The learning rate falls to 0 along a
cosine, so that the loss in the end is that of the arm and not of its last few batches. Not part of
the common grid: name the file to run it.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pytest
from mpi4py import MPI
from scipy import stats

import nn
from bench.report.promises import Promise
from nn import SGD, Batch, Model, lr_schedules
from nn.data import Dataset
from nn.data.sets import topics
from nn.layers import EmbeddingBag
from strategies import History, Hogwild, SharedDataParallel, Strategy, train
from strategies.comm.on_rank_0 import sleeping_barrier

SEEDS = 8
CONFIDENCE = 0.999

COST = 1.05
"""Times the loss of plain training that reading old weights and losing updates may cost."""


def reach_of_median(values: np.ndarray) -> float:
    """Times the median of these that the median of as many further values reaches at most.

    Student's interval on logarithms. A median of normal values has pi/2 times the variance of
    their mean (Cramer, "Mathematical methods of statistics", 1946, section 28.5).
    """
    logs = np.log(values)
    deviation = logs.std(ddof=1) * np.sqrt(np.pi / 2) * np.sqrt(2 / len(logs))
    return float(np.exp(stats.t.ppf((1 + CONFIDENCE) / 2, len(logs) - 1) * deviation))


@dataclass(frozen=True)
class Workload:
    """What is trained: `rows` of an update, and the arms, of which the first is on one worker.

    `lr` is what the learning rate begins at.
    """

    data: Callable[[], Dataset]
    model: Callable[[int, int], Model]
    lr: float
    rows: int
    epochs: int
    arms: dict[str, Callable[..., Strategy]]


def logistic_regression(classes: int, seed: int) -> Model:
    """A score of every class for each feature of `topics`, summed over a row's features."""
    layers = [EmbeddingBag(topics.FEATURES, classes)]
    return Model(layers, seed=seed, input_shape=(2 * topics.WINDOW - 1,))


SPARSE = partial(Hogwild, sparse=True)
WORKLOADS = {
    "words": Workload(
        data=topics.load,
        model=logistic_regression,
        lr=1.0,
        rows=16,
        epochs=8,
        arms={
            "one worker": SPARSE,
            "Hogwild": SPARSE,
            "Hogwild, lock": partial(SPARSE, lock=True),
            "Hogwild, dense updates": Hogwild,
            "SharedDataParallel": SharedDataParallel,
        },
    ),
    "digits": Workload(
        data=lambda: nn.data.load("digits", 10_000),
        model=lambda classes, seed: nn.mlp([784, 256, 128, classes], seed=seed),
        lr=0.06,
        rows=128,
        epochs=6,
        arms={
            "one worker": Hogwild,
            "Hogwild": Hogwild,
            "Hogwild, lock": partial(Hogwild, lock=True),
            "SharedDataParallel": SharedDataParallel,
        },
    ),
}


def run(
    workload: Workload, arm: str, data: Dataset, seed: int, comm: MPI.Intracomm
) -> tuple[History | None, float]:
    """The history and the loss over all training rows in the end, on the ranks that trained."""
    alone = arm == "one worker"
    ranks = MPI.COMM_SELF if alone else comm
    rows = workload.rows * ranks.size
    model = workload.model(data.classes, seed)
    lr = lr_schedules.cosine(workload.lr, workload.epochs * data.steps_per_epoch(rows))
    strategy = workload.arms[arm](model, SGD(lr), ranks)
    history, loss = None, 0.0
    if comm.rank == 0 or not alone:
        history = train(strategy, data, batch_size=rows, epochs=workload.epochs, seed=seed)
        history = replace(history, name=arm)
    strategy.close()
    sleeping_barrier(comm)
    if comm.rank == 0:
        loss = float(model.gradients(Batch(data.x, data.y)))
    return history, loss


@pytest.mark.workers(2)
@pytest.mark.parametrize("name", WORKLOADS)
def test_sparse_and_dense(comm, record, name):
    """The loss after as many samples is hardly above the interval of plain training's."""
    workload = WORKLOADS[name]
    data = workload.data()
    seconds, loss = np.zeros((2, SEEDS, len(workload.arms)))
    for seed, i in np.ndindex(loss.shape):
        history, loss[seed, i] = run(workload, list(workload.arms)[i], data, seed, comm)
        if history:
            record(history)
            seconds[seed, i] = history.seconds[-1]
    comm.Bcast(seconds)
    comm.Bcast(loss)
    plain = loss[:, 0]
    highest = round(COST * reach_of_median(plain), 3)
    worse = []
    for i, arm in enumerate(workload.arms):
        time_ratio = float(np.median(seconds[:, i] / seconds[:, 0]))
        loss_ratio = float(np.median(loss[:, i]) / np.median(plain))
        limit = highest if arm.startswith("Hogwild") else None
        rate = workload.epochs * len(data.y) / np.median(seconds[:, i])
        record(Promise(f"{name}, {arm}: {rate:,.0f} samples/s, time", time_ratio))
        record(Promise(f"{name}, {arm}: final loss", loss_ratio, limit))
        if limit and loss_ratio > limit:
            worse.append(f"{arm}: final loss {loss_ratio:.3f} of plain training's, above {limit}")
    assert not worse, f"{name}: {'; '.join(worse)}"
