"""Whole trainings side by side."""

from strategies.tasks.kfold import KFold, kfold
from strategies.tasks.outcome import Outcome
from strategies.tasks.run import run_tasks
from strategies.tasks.running import Running, current
from strategies.tasks.search import Search, search
from strategies.tasks.trial import train_configuration

__all__ = [
    "KFold",
    "Outcome",
    "Running",
    "Search",
    "current",
    "kfold",
    "run_tasks",
    "search",
    "train_configuration",
]
