"""The ways in which tasks are executed: here, by workers of our own, by an executor of the user."""

import math
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from functools import partial
from operator import index
from typing import Any, Protocol

from mpi4py import MPI

from strategies.launchers import worlds_of_one
from strategies.tasks.attempt import Instructions, Result, attempt, attempt_elsewhere
from strategies.tasks.shared_arrays import PickledOnce
from strategies.tasks.threads import check_cores
from strategies.tasks.workers import CallerPool, Workers

EXPECTED = (
    'expected None, a number of workers, Workers(n), "mpi", a communicator of mpi4py, or an '
    "executor of concurrent.futures (of a Dask client: client.get_executor())"
)


class Execution(Protocol):
    """A way to execute the tasks of a run.

    Attributes:
        capacity: how many tasks to submit before one has ended.
    """

    capacity: float

    def submit(
        self, limit: float | None, task: Any, instructions: Instructions
    ) -> "Future[Result]": ...

    def kill(self) -> None:
        """End what has been submitted, as far as it is ours to end."""


class Here:
    """Executes each task at once, in this thread.

    Args:
        run: is called with the arguments of `submit`, the limit last.
    """

    capacity: float = 1

    def __init__(self, run: Callable[[Any, Instructions, float | None], Result]):
        self._run = run

    def submit(
        self, limit: float | None, task: Any, instructions: Instructions
    ) -> "Future[Result]":
        future: Future[Result] = Future()
        future.set_result(self._run(task, instructions, limit))
        return future

    def kill(self) -> None:
        pass


class InPool:
    """Has workers of our own execute the tasks, which have their threads from the beginning."""

    def __init__(self, pool: CallerPool, function: Callable[[Any], Any]):
        self._pool, self._function = pool, PickledOnce(function)
        self.capacity: float = 2 * pool.size  # so that a worker need not wait for the next one

    def submit(
        self, limit: float | None, task: Any, instructions: Instructions
    ) -> "Future[Result]":
        return self._pool.submit_within(limit, attempt, self._function, task, instructions)

    def kill(self) -> None:
        self._pool.kill()


class InOther:
    """Has an executor of the user execute the tasks."""

    capacity: float = math.inf  # it has a queue of its own

    def __init__(self, executor: Executor, function: Callable[[Any], Any]):
        self._executor, self._function = executor, function

    def submit(
        self, limit: float | None, task: Any, instructions: Instructions
    ) -> "Future[Result]":
        return self._executor.submit(attempt_elsewhere, self._function, task, instructions, limit)

    def kill(self) -> None:
        pass  # it is not ours to end; what had not begun is cancelled


def ranks_of(executor: Any) -> Any:
    """Return the communicator if ranks are to execute the tasks, else None.

    Raises:
        RuntimeError: a launcher has started several processes, and each sees a world of one.
    """
    if isinstance(executor, MPI.Intracomm):
        return executor
    if isinstance(executor, str) and executor == "mpi":
        if problem := worlds_of_one():
            raise RuntimeError(problem)
        return MPI.COMM_WORLD
    return None


@contextmanager
def execution_on(
    executor: Any, threads: int, function: Callable[[Any], Any]
) -> Iterator[Execution]:
    """Yield the way that `run_tasks(executor=)` asks for, without ranks. What it starts ends.

    Raises:
        TypeError, ValueError: it asks for something else.
    """
    if executor is None:
        check_cores(1, threads)
        yield Here(partial(attempt_elsewhere, function))
    elif isinstance(executor, Workers):
        if executor.threads != threads:
            raise ValueError(
                f"threads={threads}, but each of the Workers has {executor.threads}: expected the "
                "same number"
            )
        executor.forget()
        yield InPool(executor, function)
    elif isinstance(executor, Executor):
        yield InOther(executor, function)
    else:
        count = _count(executor)
        if problem := check_cores(count, threads):
            warnings.warn(problem, stacklevel=4)
        with Workers(count, threads) as workers:
            yield InPool(workers, function)


def size_of(executor: Any) -> int | None:
    """Return how many tasks an executor runs at the same time; None if that is not known.

    Raises:
        TypeError, ValueError, RuntimeError: it is no executor.
    """
    if executor is None:
        return 1
    if comm := ranks_of(executor):
        return comm.size
    if isinstance(executor, Executor):
        return executor.size if isinstance(executor, CallerPool) else None
    return _count(executor)


def in_words(executor: Any) -> str:
    """Name an executor as `run_tasks` takes it: "1 process", "2 workers", "4 ranks", its class."""
    if executor is None:
        return "1 process"
    size = size_of(executor)
    if size is None:
        return type(executor).__name__
    return f"{size} {'ranks' if ranks_of(executor) else 'workers'}"


def _count(executor: Any) -> int:
    try:
        count = None if isinstance(executor, bool | str) else index(executor)
    except TypeError:
        count = None
    if count is None:
        raise TypeError(f"executor={executor!r:.60}: {EXPECTED}")
    if count < 1:
        raise ValueError(f"executor={count}: {EXPECTED}")
    return count
