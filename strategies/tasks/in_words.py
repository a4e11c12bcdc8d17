"""What runs tasks, in words, for records and tables."""

from typing import Any

from strategies.tasks.executors import ranks_of
from strategies.tasks.workers import CallerPool


def in_words(executor: Any) -> str:
    """Name an executor as `run_tasks` takes it: "1 process", "2 workers", "4 ranks", its class."""
    if executor is None:
        return "1 process"
    if comm := ranks_of(executor):
        return f"{comm.size} ranks"
    if isinstance(executor, CallerPool):
        return f"{executor.size} workers"
    if isinstance(executor, int):
        return f"{executor} workers"
    return type(executor).__name__
