"""Whole trainings side by side."""

from strategies.tasks.kfold import KFold, kfold
from strategies.tasks.outcome import Outcome
from strategies.tasks.run import run_tasks
from strategies.tasks.running import Running, current

__all__ = ["KFold", "Outcome", "Running", "current", "kfold", "run_tasks"]
