"""Does it pay to let every worker train another model, and to combine them?

Members are trained several times from other seeds, on all rows, and without each fold for the
meta-learner: one training after the other, and by as many workers as there are ranks, in turn. A
combination pays if it is more right than the best member by more than the spread over seeds.

Each run says on stderr how far it is, which its time includes. How the cores are used is watched in
a run more of each, which is not timed.
"""

from functools import partial
from typing import Any

import pytest
from mpi4py import MPI

from bench.core.cores import available
from bench.core.turns import ratio
from bench.core.whole_runs import pool, race_runs
from bench.report.kinds import Race, Use
from bench.report.promises import Promise
from bench.studies.conftest import chosen_by
from nn import SGD
from strategies.tasks import Ensemble, EnsembleScores
from strategies.tasks.combining import WAYS
from strategies.tasks.models import as_builders

pytestmark = pytest.mark.workers(MPI.COMM_WORLD.size)

NETS = ("mlp", "lenet", "cnn")
EPOCHS, BATCH, FOLDS, SEEDS, ROUNDS, RATE = 2, 64, 3, 3, 2, 0.05


def test_ensemble(request, comm, record, promise):
    if comm.size > available():
        pytest.skip(f"{comm.size} workers need as many cores; there are {available()}")
    chosen = chosen_by(request.config)
    data, workers = chosen.data(), comm.size
    models = as_builders(chosen.names(*NETS), data)
    results: list[EnsembleScores] = []

    with pool(comm) as crew:

        def ours(executor: Any) -> None:
            ensemble = Ensemble(
                models,
                batch_size=BATCH,
                epochs=chosen.epochs or EPOCHS,
                schedules=RATE,
                optimizer=partial(SGD, momentum=0.9),
            )
            found = ensemble.fit(data, k=chosen.folds or FOLDS, repeats=SEEDS, executor=executor)
            results.append(found)

        runs = {"serial": partial(ours, None), "parallel": partial(ours, crew.workers)}
        if comm.rank == 0:
            runs["parallel"]()  # workers load their libraries, and the cache has the folds
        rounds = 1 if request.config.option.quick else ROUNDS
        times, state = race_runs(comm, runs, rounds)
        uses = crew.uses(runs["serial"], runs["parallel"])

    seconds = times.seconds
    record(Race.of("ensemble", workers, BATCH, times, state))
    over = ratio(seconds["parallel"], seconds["serial"])
    what = f"ensemble: time of {workers} workers over one process"
    promise(what, over, cores=workers, machine=state)
    if comm.rank == 0:
        first, *others = results
        same = (first.members, first.combinations)
        assert all((each.members, each.combinations) == same for each in others), "other members"
        record(first)
        for way in WAYS:
            spread = first.spread or float("nan")
            what = f"gain of the {way} vote over {first.best_member}, over the spread of seeds"
            record(Promise(what, first.gain(way) / spread))
        for how, use in uses.items():
            record(Use.of(f"ensemble, {how}", use))
        print(first)
