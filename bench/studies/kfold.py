"""How much sooner is k-fold cross-validation over on all cores, and is its result the same?

Every net is trained with two learning-rate schedules on ten folds: one training after the other,
by as many workers as there are ranks, by joblib, and by scikit-learn's `cross_val_score`. They take
turns in the same rounds. Rank 0 has the workers, and sleeps while they train; so do other ranks.

joblib trains on the same folds, but from weights of its own; so does scikit-learn, on rows that
were scaled before they were divided. Only the times of these two are compared.

Each run says on stderr how far it is, which its time includes. How the cores are used is watched in
a run more of each, which is not timed.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import joblib
import numpy as np
import pytest
from mpi4py import MPI
from sklearn.model_selection import StratifiedKFold, cross_val_score

from bench.core.cores import available
from bench.core.turns import ratio
from bench.core.whole_runs import outside_the_launch, pool, race_runs
from bench.peers.net_classifier import NetClassifier
from bench.report.kinds import Race, Use
from bench.studies.conftest import chosen_by
from nn import SGD
from nn.data import Dataset
from nn.lr_schedules import Schedule, cosine, warm_restarts
from strategies.tasks import KFold, kfold
from strategies.tasks.models import as_builders

pytestmark = pytest.mark.workers(MPI.COMM_WORLD.size)

EPOCHS = {"mlp": 3, "lenet": 1}
"""The nets, unless others are chosen, and epochs of each training."""

FOLDS, BATCH, ROUNDS, PERIODS = 10, 64, 4, 3
OVER_SERIAL = {2: 1 / 1.85}
"""Workers -> the largest time over that of one process that is promised."""

OVER_OTHERS, OVER_IDEAL = 1.03, 1.05


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "net" in metafunc.fixturenames:
        metafunc.parametrize("net", chosen_by(metafunc.config).names(*EPOCHS))


def restarts(steps: int) -> Schedule:
    return warm_restarts(0.05, max(1, steps // PERIODS))


SCHEDULES: dict[str, Callable[[int], Schedule]] = {
    "cosine": partial(cosine, 0.05),
    "warm restarts": restarts,
}


def momentum(schedule: Schedule) -> SGD:
    return SGD(schedule, momentum=0.9)


def train_fold(net: NetClassifier, data: Dataset, number: int, folds: int) -> float:
    """Do the work of one training of `kfold`, for joblib."""
    rows = data.fold(number, folds)
    return net.fit(rows.x, rows.y).score(rows.x_validation, rows.y_validation)


def over_ideal(result: KFold, workers: int) -> float:
    """The time of a run over the least that its trainings can take on so many workers."""
    seconds = [fold.seconds for scores in result.scores for fold in scores.folds]
    return result.seconds / max(sum(seconds) / workers, max(seconds))


def test_kfold(request, comm, record, promise, net):
    if comm.size > available():
        pytest.skip(f"{comm.size} workers need as many cores; there are {available()}")
    chosen = chosen_by(request.config)
    data, folds, workers = chosen.data(), chosen.folds or FOLDS, comm.size
    build, epochs = as_builders([net], data)[net], chosen.epochs or EPOCHS.get(net, 1)
    steps = epochs * data.fold(0, folds).steps_per_epoch(BATCH)
    classifiers = [
        NetClassifier(build, partial(momentum, make(steps)), BATCH, epochs)
        for make in SCHEDULES.values()
    ]
    splits = StratifiedKFold(folds, shuffle=True, random_state=0)
    x, y = np.array(data.x), np.array(data.y)
    results: dict[str, list[KFold]] = {"serial": [], "parallel": []}

    with pool(comm) as crew:

        def ours(how: str, executor: Any) -> None:
            training = dict(batch_size=BATCH, epochs=epochs, optimizer=momentum)
            found = kfold({net: build}, SCHEDULES, data, folds, executor=executor, **training)
            results[how].append(found)

        def by_joblib() -> None:
            calls = [
                joblib.delayed(train_fold)(each, data, number, folds)
                for each in classifiers
                for number in range(folds)
            ]
            with outside_the_launch():
                joblib.Parallel(workers, backend="loky")(calls)

        def by_scikit_learn() -> None:
            with outside_the_launch():
                for each in classifiers:
                    cross_val_score(each, x, y, cv=splits, n_jobs=workers)

        runs = {
            "serial": partial(ours, "serial", None),
            "parallel": partial(ours, "parallel", crew.workers),
            "joblib": by_joblib,
            "scikit-learn": by_scikit_learn,
        }
        if comm.rank == 0:
            for run in runs.values():  # workers load their libraries, and the cache has the folds
                run()
            for found in results.values():
                found.clear()
        rounds = 2 if request.config.option.quick else ROUNDS
        times, state = race_runs(comm, runs, rounds)
        uses = crew.uses(runs["serial"], runs["parallel"])

    seconds = times.seconds
    record(Race.of(f"k-fold, {net}", workers, BATCH, times, state))
    compared = [
        ("over one process", seconds["serial"], OVER_SERIAL.get(workers)),
        ("over joblib's", seconds["joblib"], OVER_OTHERS),
        ("over scikit-learn's", seconds["scikit-learn"], OVER_OTHERS),
    ]
    for over, others, limit in compared:
        what = f"{net}: time of {workers} workers {over}"
        over_others = ratio(seconds["parallel"], others)
        promise(what, over_others, limit, cores=workers, machine=state)
    ideal = np.zeros(1)
    if comm.rank == 0:
        ideal[0] = np.median([over_ideal(found, workers) for found in results["parallel"]])
    comm.Bcast(ideal)
    what = f"{net}: time over the least that its trainings can take"
    promise(what, float(ideal[0]), OVER_IDEAL, cores=workers, machine=state)
    if comm.rank == 0:
        serial, *others = results["serial"] + results["parallel"]
        assert all(serial.equals(other) for other in others), "workers train other weights"
        for found in results.values():
            record(found[-1])
        for how, use in uses.items():
            record(Use.of(f"k-fold, {net}, {how}", use))
        print(results["parallel"][-1].beside(serial))
