"""The ways in which tasks are executed: here, by workers of our own, by an executor of the user."""

import math
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from operator import index
from typing import Any, Protocol

from mpi4py import MPI

from strategies.launchers import worlds_of_one
from strategies.tasks.attempt import Order, Result, attempt, attempt_elsewhere
from strategies.tasks.threads import check_cores
from strategies.tasks.workers import Crew, Workers

EXPECTED = (
    'expected None, a number of workers, Workers(n), "mpi", a communicator of mpi4py, or an '
    "executor of concurrent.futures (of a Dask client: client.get_executor())"
)


class Executes(Protocol):
    """A way to execute tasks.

    Attributes:
        room: how many tasks to submit at a time.
    """

    room: float

    def submit(
        self, limit: float | None, function: Callable[[Any], Any], task: Any, order: Order
    ) -> "Future[Result]": ...

    def kill(self) -> None: ...


class Here:
    """Executes each task at once, in this thread."""

    room: float = 1

    def submit(
        self, limit: float | None, function: Callable[[Any], Any], task: Any, order: Order
    ) -> "Future[Result]":
        future: Future[Result] = Future()
        future.set_result(attempt_elsewhere(function, task, order, limit))
        return future

    def kill(self) -> None:
        pass


class ByCrew:
    """Has workers of our own execute the tasks, which have their threads from the beginning."""

    def __init__(self, crew: Crew):
        self._crew = crew
        self.room: float = 2 * crew.size  # so that a worker need not wait for the next one

    def submit(
        self, limit: float | None, function: Callable[[Any], Any], task: Any, order: Order
    ) -> "Future[Result]":
        return self._crew.submit_within(limit, attempt, function, task, order)

    def kill(self) -> None:
        self._crew.kill()


class ByOther:
    """Has an executor of the user execute the tasks."""

    room: float = math.inf  # it has a queue of its own

    def __init__(self, executor: Executor):
        self._executor = executor

    def submit(
        self, limit: float | None, function: Callable[[Any], Any], task: Any, order: Order
    ) -> "Future[Result]":
        return self._executor.submit(attempt_elsewhere, function, task, order, limit)

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
def executes_on(executor: Any, threads: int) -> Iterator[Executes]:
    """Yield the way that `run_tasks(executor=)` asks for, without ranks. What it starts ends.

    Raises:
        TypeError, ValueError: it asks for something else.
    """
    if executor is None:
        check_cores(1, threads)
        yield Here()
    elif isinstance(executor, Workers):
        if executor.threads != threads:
            raise ValueError(
                f"threads={threads}, but each of the Workers has {executor.threads}: expected the "
                "same number"
            )
        executor.forget()
        yield ByCrew(executor)
    elif isinstance(executor, Executor):
        yield ByOther(executor)
    else:
        count = _count(executor)
        if problem := check_cores(count, threads):
            warnings.warn(problem, stacklevel=4)
        with Workers(count, threads) as workers:
            yield ByCrew(workers)


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
