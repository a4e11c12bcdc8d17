"""What came of a task."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Outcome:
    """What came of a task.

    Attributes:
        task: the task, as it was given.
        value: what the function returned; None if it did not return.
        error: None if the function returned; else what happened, with the traceback if it raised.
        seconds: time that the last attempt took in its worker; until it was ended, if it was.
        attempts: how often the task was started. More than 1 only if a worker died under it.
    """

    task: Any
    value: Any = None
    error: str | None = None
    seconds: float = 0.0
    attempts: int = 1
