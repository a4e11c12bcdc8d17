"""Whole trainings side by side: the other way to keep cores busy, when one training is too small.

    def accuracy(task):
        rate, rng = task["rate"], current().rng
        ...
        return {"accuracy": 0.97}

    tasks = [{"rate": rate} for rate in (0.01, 0.1, 1.0)]
    for outcome in run_tasks(accuracy, tasks, 2, journal="rates.jsonl"):
        print(outcome.task, outcome.value or outcome.error)

The outcomes are the same to the bit for any executor, any number of workers and any order. A task
that raises, takes too long or kills its worker costs the others nothing, and a run that was ended
goes on from its journal.
"""

from strategies.tasks.ensemble import Ensemble, EnsembleScores
from strategies.tasks.kfold import KFold, kfold
from strategies.tasks.outcome import Outcome
from strategies.tasks.run import run_tasks
from strategies.tasks.running import Running, current
from strategies.tasks.search import Search, search
from strategies.tasks.trial import train_configuration
from strategies.tasks.workers import Workers

__all__ = [
    "Ensemble",
    "EnsembleScores",
    "KFold",
    "Outcome",
    "Running",
    "Search",
    "Workers",
    "current",
    "kfold",
    "run_tasks",
    "search",
    "train_configuration",
]
