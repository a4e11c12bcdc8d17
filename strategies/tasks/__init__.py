"""Whole trainings side by side."""

from strategies.tasks.outcome import Outcome
from strategies.tasks.run import run_tasks
from strategies.tasks.running import Running, current

__all__ = ["Outcome", "Running", "current", "run_tasks"]
