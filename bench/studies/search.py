"""How much sooner does a search that halves find a configuration as good as exhaustive search's?

Exhaustive search, successive halving and its asynchronous form try the same 54 configurations on
as many workers as there are ranks. So does scikit-learn's `HalvingRandomSearchCV`, whose trainings
begin anew at every rung. All take turns in the same rounds, and choose on the same validation rows.

Each run says on stderr how far it is, which its time includes. How the cores are used is watched in
a run more of each, which is not timed.
"""

from functools import partial
from typing import Any

import numpy as np
import pytest
from mpi4py import MPI
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.model_selection import HalvingRandomSearchCV, PredefinedSplit

from bench.core.cores import available
from bench.core.turns import ratio
from bench.core.whole_runs import outside_the_launch, pool, race_runs
from bench.peers.net_classifier import NetClassifier
from bench.report.kinds import Race, Use
from bench.studies.conftest import chosen_by
from nn import SGD
from strategies.tasks import Search, search
from strategies.tasks.fitting import validation_rows
from strategies.tasks.models import fully_connected

pytestmark = pytest.mark.workers(MPI.COMM_WORLD.size)

EPOCHS, BATCH, ROUNDS, ETA = 27, 64, 3, 3
RATES = [float(f"{rate:.2g}") for rate in np.geomspace(1, 0.001, 18)]
WIDTHS = [16, 32, 64]
OVER_GRID, WORSE = 1 / 4, 0.005
"""The largest time over exhaustive search's, and the accuracy that may be lost."""


def test_search(request, comm, record, promise):
    if comm.size > available():
        pytest.skip(f"{comm.size} workers need as many cores; there are {available()}")
    chosen = chosen_by(request.config)
    data, workers = chosen.data(validation=0.2), comm.size
    epochs = chosen.epochs or EPOCHS
    space = {"lr": RATES, "width": WIDTHS, "batch_size": BATCH, "epochs": epochs}
    x_held, y_held = validation_rows(data)
    x, y = np.concatenate([data.x, x_held]), np.concatenate([data.y, y_held])
    split = PredefinedSplit(np.repeat([-1, 0], [len(data.y), len(y_held)]))
    net = NetClassifier(partial(fully_connected, x.shape[1], data.classes), SGD, BATCH)
    results: dict[str, list[Search]] = {}
    chosen_by_scikit_learn: list[float] = []

    with pool(comm) as crew:

        def ours(name: str, how: str, executor: Any) -> None:
            options: dict[str, Any] = {} if how == "grid" else {"eta": ETA}
            found = search(space, data, how=how, executor=executor, **options)
            results.setdefault(name, []).append(found)

        def by_scikit_learn() -> None:
            halving = HalvingRandomSearchCV(
                net,
                {"lr": RATES, "width": WIDTHS},
                n_candidates=len(RATES) * len(WIDTHS),
                factor=ETA,
                resource="epochs",
                min_resources=1,
                max_resources=epochs,
                cv=split,
                random_state=0,
                refit=False,
                n_jobs=workers,
            )
            with outside_the_launch():
                chosen_by_scikit_learn.append(float(halving.fit(x, y).best_score_))

        runs = {
            "exhaustive": partial(ours, "exhaustive", "grid", crew.workers),
            "halving": partial(ours, "halving", "halving", crew.workers),
            "asynchronous halving": partial(ours, "asynchronous halving", "asha", crew.workers),
            "halving, one process": partial(ours, "halving, one process", "halving", None),
            "scikit-learn": by_scikit_learn,
        }
        if comm.rank == 0:
            for run in runs.values():  # workers load their libraries
                run()
            results.clear()
        rounds = 2 if request.config.option.quick else ROUNDS
        times, state = race_runs(comm, runs, rounds)
        uses = crew.uses(runs["halving, one process"], runs["halving"])

    seconds = times.seconds
    record(Race.of("search", workers, BATCH, times, state))
    accuracies = np.zeros(4)
    names = ["exhaustive", "halving", "asynchronous halving"]
    if comm.rank == 0:
        accuracies[:3] = [results[name][-1].accuracy for name in names]
        accuracies[3] = chosen_by_scikit_learn[-1]
    comm.Bcast(accuracies)
    for name in names[1:]:
        limit = OVER_GRID if name == "halving" else None
        over = ratio(seconds[name], seconds["exhaustive"])
        what = f"time of {name} over exhaustive search"
        promise(what, over, limit, cores=workers, machine=state)
    over = ratio(seconds["halving"], seconds["scikit-learn"])
    promise("time of halving over scikit-learn's", over, 1.0, cores=workers, machine=state)
    for name, each, limit in zip(
        [*names[1:], "scikit-learn's halving"], accuracies[1:], (1.0, None, None)
    ):
        what = f"accuracy lost by {name}, over {WORSE:.1%}"
        promise(what, (accuracies[0] - each) / WORSE, limit)
    if comm.rank == 0:
        one, *others = results["halving"] + results["halving, one process"]
        assert all(one.decisions() == other.decisions() for other in others), "other decisions"
        for found in results.values():
            record(found[-1])
        for how, use in uses.items():
            record(Use.of(f"halving, {how}", use))
        print(results["halving"][-1])
