"""Does Hogwild pay where its theory applies, on sparse gradients, as well as on dense ones?

Every arm makes updates of equally many rows, from the same initial weights, in the same order of
rows; against Hogwild on one worker, which is plain training. Not part of the common grid: name the
file to run it.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
from mpi4py import MPI
from scipy import stats

import nn
from bench import words
from bench.measure import sleeping_barrier
from bench.results import Ratio
from nn import SGD, Batch, Model
from nn.data import Dataset
from strategies import Hogwild, SharedDataParallel, Strategy

SEEDS = 8
CONFIDENCE = 0.999


@dataclass(frozen=True)
class Workload:
    """What is trained: `rows` of an update, and the arms, of which the first is on one worker."""

    data: Callable[[], Dataset]
    model: Callable[[int, int], Model]
    lr: float
    rows: int
    epochs: int
    arms: dict[str, Callable[..., Strategy]]


SPARSE = partial(Hogwild, sparse=True)
WORKLOADS = {
    "words": Workload(
        data=words.load,
        model=words.model,
        lr=0.5,
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
        lr=0.03,
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


def train(workload: Workload, arm: str, data: Dataset, seed: int, comm: MPI.Intracomm):
    """Seconds of training, and the loss over all training rows in the end; on rank 0."""
    alone = arm == "one worker"
    ranks = MPI.COMM_SELF if alone else comm
    model = workload.model(data.classes, seed)
    strategy = workload.arms[arm](model, SGD(workload.lr), ranks)
    seconds = 0.0
    if comm.rank == 0 or not alone:
        batches = list(data.batches(workload.rows * ranks.size, workload.epochs, seed))
        ranks.Barrier()
        start = time.perf_counter()
        for batch in batches:
            strategy.step(batch)
        ranks.Barrier()
        seconds = time.perf_counter() - start
    strategy.close()
    sleeping_barrier(comm)
    return seconds, float(model.gradients(Batch(data.x, data.y))) if comm.rank == 0 else 0.0


@pytest.mark.workers(2)
@pytest.mark.parametrize("name", WORKLOADS)
def test_sparse_and_dense(comm, record, name):
    """The loss after as many samples stays in the interval of a further run of plain training."""
    workload = WORKLOADS[name]
    data = workload.data()
    result = np.array(
        [[train(workload, arm, data, seed, comm) for arm in workload.arms] for seed in range(SEEDS)]
    )
    comm.Bcast(result)
    seconds, loss = np.moveaxis(result, -1, 0)
    plain = loss[:, 0]
    reach = stats.t.ppf((1 + CONFIDENCE) / 2, SEEDS - 1) * np.sqrt(1 + 1 / SEEDS)
    highest = round(float(1 + reach * plain.std(ddof=1) / plain.mean()), 3)
    for i, arm in enumerate(workload.arms):
        time_ratio = float(np.median(seconds[:, i] / seconds[:, 0]))
        loss_ratio = float(np.median(loss[:, i] / plain))
        limit = highest if arm.startswith("Hogwild") else None
        rate = workload.epochs * len(data.y) / np.median(seconds[:, i])
        record(Ratio(f"{name}, {arm}: {rate:,.0f} samples/s, time", time_ratio), "", [], {})
        record(Ratio(f"{name}, {arm}: final loss", loss_ratio, limit), "", [], {})
        assert limit is None or loss_ratio <= limit
