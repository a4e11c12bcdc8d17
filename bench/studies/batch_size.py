"""Does doubling the batch halve the time to a target, and how large a batch still pays?

For every batch size, learning rate and momentum are tuned by the same budget on validation rows.
Trainings of other seeds then count the steps until the test rows reach the target; one that does
not within its budget counts as never arrived. Steps to the target, times the time of a step of so
many workers from a race, are the time to the target. The three regimes are fitted to the steps
(`regimes.py`), and the critical batch size is set beside the noise scale of the ranks' gradients
(`bench/core/noise_scale.py`), which costs them nothing but 24 bytes in a step.

By default the fully connected net on 10,000 digits, of which 1,000 validate. `--batch-sizes 8,16`,
`--trials`, `--seeds`, `--target`, `--epochs` (the budget of a training), `--nets`, `--set` and
`--rows` choose others. Not part of the common grid: name the file to run it.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from mpi4py import MPI

from bench.core.cores import available
from bench.core.grid import worker_counts
from bench.core.noise_scale import NoisyDataParallel
from bench.core.whole_runs import pool
from bench.report.batch_sizes import BatchSize, CriticalBatch
from bench.studies.conftest import Chosen, chosen_by
from bench.studies.regimes import fit, over_seeds
from bench.studies.step_times import contender, race_steps
from bench.studies.steps_to_target import Tuning, accuracy_of, budget, steps_to_target
from bench.studies.tuning import at_edge, best_of, tune
from nn import SGD
from nn.arguments import as_float, as_int
from nn.data import Dataset
from strategies import DataParallel
from strategies.tasks.models import Builder, as_builders

pytestmark = pytest.mark.workers(MPI.COMM_WORLD.size)

ROWS, VALIDATION = 10_000, 0.1
BATCH_SIZES, QUICK_SIZES = (8, 32, 128, 512, 2048, 4096), (8, 64, 512, 2048)
TARGET, EPOCHS = 0.9, 3
TRIALS, SEEDS, QUICK_TRIALS, QUICK_SEEDS = 16, 3, 8, 2
STRATEGY = "SharedDataParallel"
"""Trains on several workers in the race."""

ROUNDS, RACE_SECONDS = (5, 9), 20.0


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "net" in metafunc.fixturenames:
        metafunc.parametrize("net", chosen_by(metafunc.config).names("mlp"))


def sizes_of(chosen: Chosen, rows: int, usual: tuple[int, ...]) -> list[int]:
    """Return the batch sizes, in ascending order: those that were chosen, or the usual that fit.

    Raises:
        ValueError: a size that was chosen is no number of rows that the set has.
    """
    if chosen.batch_sizes is None:
        return [size for size in usual if size <= rows]
    for text in chosen.batch_sizes.split(","):
        if not text.strip().isdecimal() or not 1 <= int(text) <= rows:
            raise ValueError(
                f"--batch-sizes {chosen.batch_sizes}: {text!r} is no batch size of this set; "
                f"expected whole numbers from 1 to {rows:,}, the training rows, with commas"
            )
    return sorted({int(text) for text in chosen.batch_sizes.split(",")})


def count_steps(
    comm: MPI.Intracomm, build: Builder, data: Dataset, tuned: BatchSize, seeds: int
) -> BatchSize:
    """Train with the seeds 1, 2, ... and count the steps until the test rows reach the target.

    All ranks train together, and several find the noise scale on the way. Collective.

    Args:
        tuned: a batch size whose tuning, with seed 0, is over.

    Returns:
        It, with steps and noise scales.
    """
    if tuned.best is None:
        return replace(tuned, steps=[math.inf] * seeds)
    chosen = tuned.tried[tuned.best]
    steps, noises = [], []
    for seed in range(1, seeds + 1):
        kind = NoisyDataParallel if comm.size > 1 else DataParallel
        optimizer = SGD(chosen.lr, momentum=chosen.momentum)
        strategy = kind(build(seed=seed), optimizer, comm)
        needed = steps_to_target(
            strategy,
            data,
            accuracy_of(build, data.x_test, data.y_test),
            batch_size=tuned.batch_size,
            target=tuned.target,
            allowed=tuned.budget,
            seed=seed,
        )
        steps.append(needed)
        if isinstance(strategy, NoisyDataParallel) and strategy.noise.trace:
            noises.append(strategy.noise)
    return replace(
        tuned,
        steps=steps,
        noise=[noise.scale() for noise in noises],
        noise_late=[noise.scale(since=0.5) for noise in noises],
    )


def number(option: str, given: int | None, usual: int) -> int:
    """Return the number that an option gives, or the usual one.

    Raises:
        ValueError: it is below 1.
    """
    return usual if given is None else as_int(f"--{option}", given, 1)


def test_batch_size(request, comm, record, net):
    if comm.size > available():
        pytest.skip(f"{comm.size} workers need as many cores; there are {available()}")
    chosen, quick = chosen_by(request.config), request.config.option.quick
    target = TARGET if chosen.target is None else as_float("--target", chosen.target, 0.0, 1.0)
    epochs = number("epochs", chosen.epochs, EPOCHS)
    trials = number("trials", chosen.trials, QUICK_TRIALS if quick else TRIALS)
    seeds = number("seeds", chosen.seeds, QUICK_SEEDS if quick else SEEDS)
    data = chosen.data(ROWS, validation=VALIDATION)
    build = as_builders([net], data)[net]
    sizes = sizes_of(chosen, len(data.y), QUICK_SIZES if quick else BATCH_SIZES)
    budgets = {size: budget(len(data.y), size, epochs) for size in sizes}

    tried = {}
    with pool(comm) as crew:
        if comm.rank == 0:
            tried = tune(Tuning(data, build, target), budgets, trials, crew.workers)
    found = []
    for size, points in comm.bcast(tried).items():
        best = best_of(points)
        edge = best is not None and at_edge(points[best].lr, points[best].momentum)
        tuned = BatchSize(net, data.name, target, size, budgets[size], points, best, edge)
        found.append(count_steps(comm, build, data, tuned, seeds))

    counts = worker_counts()
    rounds, state = race_steps(comm, build, data, sizes, counts, STRATEGY, ROUNDS, RACE_SECONDS)
    for each in found:
        times = {f"{n}": rounds.per_step[contender(each.batch_size, n)] for n in counts}
        record(replace(each, rounds=times, machine=state))
    record(summary(found))


def summary(found: Sequence[BatchSize]) -> CriticalBatch:
    """Fit the regimes to the steps of each seed, and set both critical batch sizes side by side."""
    sizes = [each.batch_size for each in found]
    curves = [*zip(*(each.steps for each in found))]
    free = [*filter(None, (fit(sizes, curve) for curve in curves))]
    fits = [(curve, fit(sizes, curve, sharpness=1)) for curve in curves]
    hyperbolas = [hyperbola for _, hyperbola in fits if hyperbola]
    misfits = [
        np.log(hyperbola.steps(size) / needed)
        for curve, hyperbola in fits
        for size, needed in zip(sizes, curve)
        if hyperbola and math.isfinite(needed)
    ]

    def noise(which: str) -> list[float]:
        """The median over the batch sizes, of each seed."""
        of_sizes = [getattr(each, which) for each in found if getattr(each, which)]
        return [float(np.median(of_seed)) for of_seed in zip(*of_sizes)]

    measured = bool(noise("noise"))
    return CriticalBatch(
        *(found[0].net, found[0].dataset, found[0].target, sizes[0], sizes[-1], len(curves)),
        halves_until=over_seeds([each.halves_until for each in free]),
        pays_until=over_seeds([each.pays_until for each in free]),
        by_steps=over_seeds([each.critical for each in hyperbolas]),
        by_noise=over_seeds(noise("noise")) if measured else None,
        by_late_noise=over_seeds(noise("noise_late")) if measured else None,
        fewest_steps=over_seeds([each.fewest_steps for each in hyperbolas]),
        fewest_examples=over_seeds([each.fewest_examples for each in hyperbolas]),
        misfit=float(np.sqrt(np.mean(np.square(misfits)))) if misfits else math.nan,
    )
