"""Run many tasks side by side: whole trainings, mostly."""

import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from strategies.tasks.keys import key_of, seeds_of
from strategies.tasks.outcome import Outcome
from strategies.tasks.running import Running, running


def run_tasks(
    function: Callable[[Any], Any],
    tasks: Iterable[Any],
    executor: Any = None,
    *,
    journal: Any = None,
    costs: Sequence[float] | None = None,
    retries: int = 1,
    progress: bool = True,
    limit: float | None = None,
    threads: int = 1,
    seed: int = 0,
    data: Any = None,
    then: Callable[[Outcome], Iterable[Any]] | None = None,
    ranks_per_task: int = 1,
) -> list[Outcome]:
    """Call `function(task)` for every task, and return their outcomes in the order of the tasks.

    A task is what JSON knows: a dict of parameters, or a number or text. No two are equal.
    `strategies.tasks.current()` tells the function about its run: seeds, the checkpoint.
    `then` is called with each outcome, in the order in which tasks end; the tasks it returns are
    run too. (For now: everything in this process.)
    """
    outcomes: list[Outcome] = []
    waiting = list(tasks)
    with tempfile.TemporaryDirectory() as folder:
        while waiting:
            task = waiting.pop(0)
            key = key_of(task, seed, threads)
            here = Running(key, seeds_of(task, seed), 1, threads, Path(folder) / f"{key}.npz")
            began = time.perf_counter()
            value, error = None, None
            with running(here):
                try:
                    value = function(task)
                except Exception:
                    error = traceback.format_exc()
            outcomes.append(Outcome(task, value, error, time.perf_counter() - began))
            waiting += list(then(outcomes[-1])) if then else []
    return outcomes
