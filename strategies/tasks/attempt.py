"""One attempt at a task, in the process that runs it."""

import time
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from strategies.tasks.global_seeds import global_seeds
from strategies.tasks.keys import seeds_of
from strategies.tasks.running import Running, running
from strategies.tasks.threads import threads_limited
from strategies.tasks.time_limit import OutOfTime, time_limit


@dataclass(frozen=True)
class Instructions:
    """What a worker is told beside the function and the task."""

    key: str
    seed: int
    attempt: int
    threads: int
    checkpoint: str


@dataclass(frozen=True)
class Result:
    """What an attempt gave: a value, or an error and its traceback as text."""

    value: Any
    error: str | None
    seconds: float


def attempt(
    function: Callable[[Any], Any],
    task: Any,
    instructions: Instructions,
    limit: float | None = None,
    comm: Any = None,
    ends_the_run: tuple[type[BaseException], ...] = (),
) -> Result:
    """Run a task, whatever it raises, in a process that has no more threads than it may use.

    Raises:
        BaseException: the task has raised an exception of a class in `ends_the_run`.
    """
    seeds = seeds_of(task, instructions.seed)
    here = Running(
        instructions.key,
        seeds,
        instructions.attempt,
        instructions.threads,
        Path(instructions.checkpoint),
        comm,
    )
    value, error = None, None
    began = time.perf_counter()
    try:
        with running(here), global_seeds(seeds), time_limit(limit):
            began = time.perf_counter()
            value = function(task)
    except OutOfTime as late:
        error = str(late)
    except ends_the_run:
        raise
    except BaseException:  # of classes that tests and libraries have beside Exception, too
        error = traceback.format_exc()
    return Result(value, error, time.perf_counter() - began)


def attempt_elsewhere(
    function: Callable[[Any], Any],
    task: Any,
    instructions: Instructions,
    limit: float | None = None,
    comm: Any = None,
) -> Result:
    """Run a task in a process that is not ours: it is held to the threads that the task may use.

    Raises:
        KeyboardInterrupt: Ctrl-C, which ends such a process too.
    """
    with threads_limited(instructions.threads) if instructions.threads else nullcontext():
        return attempt(function, task, instructions, limit, comm, (KeyboardInterrupt,))
