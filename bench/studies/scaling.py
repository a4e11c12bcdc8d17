"""How far does it scale: one batch on more workers, and more rows with more workers?

*Strong scaling*: the batch stays as it is, and its rows are divided. The efficiency of n workers is
the speedup over plain training, divided by n (Amdahl, 1967). *Weak scaling*: every worker has as
many rows as plain training has alone. The efficiency is the time of plain training over that of n
workers, which have n times the rows (Gustafson, 1988). All of it is one race for each net.

*Crossover*: the gradient's Allreduce takes turns with these, up to as many workers as there are
cores; beyond, a formula with its latency and bandwidth says from how many workers on it takes as
long as what they compute (`bench.report.crossovers`). Not part of the common grid: name the file to
run it.
"""

from collections.abc import Iterator
from functools import partial
from typing import cast

import numpy as np
import pytest
from mpi4py import MPI

from bench.core.arms import alone, among, bounded, together, training
from bench.core.cell import interval
from bench.core.check import equals_sequential, uneven_rows
from bench.core.cores import available
from bench.core.grid import optimizer, synchronous, worker_counts
from bench.core.race import turns_on
from bench.core.turns import Contender, Turn
from bench.marks import only_in_full_grid
from bench.report.kinds import Crossover, Scaling
from nn import Batch, mlp
from strategies import Sequential, Strategy, costs
from strategies.catalog import CATALOG
from strategies.comm.raise_together import raise_together

NETS = {
    "usual": [784, 256, 128, 10],
    "wide": [784, 1024, 1024, 10],
    "narrow": [784, 64, 64, 10],
    "deep": [784, *[128] * 12, 10],
    "deeper": [784, *[128] * 24, 10],
}
ROWS = 256
"""Of a worker in weak scaling, and of plain training."""

STRONG_ROWS = 1024
"""Of the batch in strong scaling."""


def batch(rows: int, seed: int = 0) -> Batch:
    rng = np.random.default_rng(seed)
    return Batch(rng.standard_normal((rows, 784)).astype(np.float32), rng.integers(0, 10, rows))


def laws(workers: int) -> Iterator[tuple[str, int, int]]:
    """Yield each law, the rows of plain training and those of so many workers."""
    yield "strong", STRONG_ROWS, STRONG_ROWS
    yield "weak", ROWS, workers * ROWS


def allreduce(workers: MPI.Intracomm, numbers: int) -> Turn:
    """Make the turn of an Allreduce of float32 numbers, on these ranks."""
    buffer = np.zeros(numbers, np.float32)  # remains 0, however often it is summed

    def run(first: int, times: int) -> None:
        for _ in range(times):
            workers.Allreduce(MPI.IN_PLACE, buffer, MPI.SUM)

    return partial(together, workers, run)


@pytest.mark.workers(MPI.COMM_WORLD.size)
@pytest.mark.parametrize(
    "net", ["usual", *map(only_in_full_grid, ("narrow", "wide", "deep", "deeper"))]
)
def test_scaling(comm, record, net):
    def checked(name: str, workers: MPI.Intracomm) -> Strategy:
        strategy = CATALOG[name](mlp(NETS[net]), optimizer(), workers)
        plain = Sequential(mlp(NETS[net]), optimizer())
        batches = [batch(uneven_rows(workers.size, ROWS), seed) for seed in range(3)]
        problem = equals_sequential(strategy, plain, batches, workers).problem
        if problem:
            raise AssertionError(f"{name}: {problem}")
        return strategy

    plain = Sequential(mlp(NETS[net]), optimizer())
    contenders = {
        f"plain, {rows} rows": Contender(partial(alone, comm, training(plain.step, [batch(rows)])))
        for rows in (ROWS, STRONG_ROWS)
    }
    strategies, compared, summed = [], [], []
    (sent,) = costs.sent_by_data_parallel(mlp(NETS[net])).values()
    for n in worker_counts():
        takes_part = comm.rank < n
        workers = cast(MPI.Intracomm, comm.Split(0 if takes_part else MPI.UNDEFINED))
        for name in synchronous():
            build = partial(checked, name, workers)
            strategy = raise_together(comm, build if takes_part else lambda: None)
            strategies.append(strategy)
            for law, plain_rows, rows in laws(n):
                turn = lambda first, steps: 0.0  # noqa: E731
                if strategy:
                    turn = bounded(
                        partial(together, workers, training(strategy.step, [batch(rows)]))
                    )
                contender = f"{name}, {n} workers, {law}"
                contenders[contender] = Contender(among(comm, workers, turn), paces=False)
                compared.append((contender, name, n, law, rows, f"plain, {plain_rows} rows"))
        if 1 < n <= available():
            for numbers in (1, sent // 4):
                turn = allreduce(workers, numbers) if takes_part else lambda first, steps: 0.0
                name = f"Allreduce of {numbers} numbers, {n} workers"
                contenders[name] = Contender(among(comm, workers, turn), paces=False)
            summed.append(n)
    rounds, state = turns_on(comm, contenders)
    compared.sort(key=lambda each: (each[3], each[1]))  # by law, then by strategy
    for contender, name, n, law, rows, base in compared:
        times, plain_times = rounds.seconds[contender], rounds.seconds[base]
        share = n if law == "strong" else 1
        low, high = (bound / share for bound in interval(plain_times, times))
        efficiency = float(np.median(plain_times) / np.median(times)) / share
        result = Scaling(
            *(law, name, net, n, rows, efficiency, low, high, n > available()),
            rounds={"plain": plain_times, "parallel": times},
            machine=state,
        )
        record(result)
    medians = {name: float(np.median(times)) for name, times in rounds.per_step.items()}
    empty, whole = (
        {n: medians[f"Allreduce of {numbers} numbers, {n} workers"] for n in summed}
        for numbers in (1, sent // 4)
    )
    for law, rows in (("strong", STRONG_ROWS), ("weak", ROWS)) if summed else ():
        record(Crossover.of(law, net, rows, sent, medians[f"plain, {rows} rows"], whole, empty))
    for strategy in filter(None, strategies):
        strategy.close()
