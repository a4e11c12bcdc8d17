"""Run many tasks side by side: whole trainings, mostly."""

import contextlib
import heapq
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nn.arguments import as_float, as_int
from nn.plain_json import plain
from strategies.tasks.attempt import Instructions, Result
from strategies.tasks.executors import Execution, execution_on, ranks_of
from strategies.tasks.journal import Journal, Task, header_of
from strategies.tasks.keys import key_of
from strategies.tasks.outcome import Outcome
from strategies.tasks.progress import Progress
from strategies.tasks.ranks import on_ranks
from strategies.tasks.time_limit import OutOfTime
from strategies.tasks.values import from_json, to_json
from strategies.tasks.worker import WorkerDied


def run_tasks(
    function: Callable[[Any], Any],
    tasks: Iterable[Any],
    executor: Any = None,
    *,
    journal: str | os.PathLike[str] | None = None,
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
    """Call `function(task)` for every task, and return the outcomes in the order of the tasks.

    The outcomes are the same to the bit for every executor, number of workers and order in which
    tasks end, if the function depends on nothing but its task and `strategies.tasks.current()`,
    which has seeds of the task's own. The shared generators of Python, numpy and torch are seeded
    from these too.

    A task that raises is an outcome, and the others go on. So is one that takes too long, and one
    whose worker dies under it more than `retries` times.

    Args:
        function: called with a task. A worker of our own takes any function; other processes take
            one that they can import.
        tasks: the parameters of each: what JSON knows, such as a dict, a number or a text. No two
            are equal.
        executor: what runs the tasks:

            - None: this process, one after the other;
            - a number: so many processes of our own, which end with the run;
            - `Workers(n)`: the same, for several runs;
            - "mpi", or a communicator of mpi4py: its ranks. Collective; every rank gives the same
              arguments and gets the outcomes. `ranks_per_task` says more;
            - any other executor of `concurrent.futures`, such as Dask's `client.get_executor()`.
        journal: a file that gets each outcome before it is reported. A run that finds it goes on
            with it: tasks that have a value there are not run again. With a journal a value is what
            JSON knows, or arrays (`values.to_json`), and a tuple becomes a list.
        costs: how long each task takes, in any unit. The longest then begin first.
        retries: how often a task is started again after its worker has died under it. Tasks that
            ran beside it are not touched. An executor that is brought may break for all of them:
            then those that have not ended have an error that says so.
        progress: whether to say on stderr how many tasks have ended.
        limit: seconds that an attempt may take. Workers of our own are killed then. In other
            processes the task is interrupted, which waits for the end of a call into C.
        threads: BLAS and torch threads of each task. Workers of our own begin with them; in other
            processes threadpoolctl sets them.
        seed: tasks of a run with another seed have other seeds.
        data: anything that can be pickled and says which data the function reads, such as the data
            set: a journal of other data is refused. What the function carries with it, as the
            arguments of a `functools.partial`, is compared anyway.
        then: called with each outcome, in the order in which tasks end, which is the order of the
            journal. The tasks that it returns are run too. A run that goes on with a journal calls
            it with the same outcomes in the same order: a task that failed has failed then, and
            runs again only if nothing has ended after it. With ranks, on rank 0 only.
        ranks_per_task: with ranks, how many run a task together, on `current().comm`. With 1, each
            rank has a worker of our own, and rank 0 sees to the tasks beside. With more, rank 0
            only waits, and the other ranks are cut into groups.

    Returns:
        An outcome for each task, in order; then one for each task that `then` returned.

    Raises:
        TypeError, ValueError: an argument is not of its kind; two tasks are equal; the journal is
            of other tasks, code or data, and the message says what differs.
        BlockingIOError: another run is using the journal.
        OSError: the journal cannot be read or written.
        RuntimeError: the executor has been shut down, or no rank of several that a launcher has
            started knows of the others.
    """
    if not callable(function):
        raise TypeError(f"function={function!r:.60}: expected a function of one task")
    task_list = list(tasks)
    terms = _Terms(
        as_int("retries", retries, 0),
        as_int("threads", threads, 1),
        as_int("seed", seed, 0),
        None if limit is None else _positive("limit", limit),
        then,
    )
    queue = _Queue(terms)
    for i, (task, cost) in enumerate(zip(task_list, _checked(costs, task_list))):
        queue.add(task, cost, f"task {i}")
    ranks_per_task = as_int("ranks_per_task", ranks_per_task, 1)

    def run_all(execution: Execution) -> list[Outcome]:
        with contextlib.ExitStack() as closing:
            book = None
            if journal is not None:
                header = header_of(function, task_list, terms.seed, terms.threads, data)
                book = closing.enter_context(Journal(journal, header).open())
                folder = book.checkpoints
            else:
                temporary = tempfile.TemporaryDirectory(prefix="lockstep-tasks-")
                folder = Path(closing.enter_context(temporary))
            shown = Progress(progress)
            return _Run(queue, terms, execution, book, folder, shown).outcomes()

    if comm := ranks_of(executor):
        return on_ranks(comm, function, task_list, terms, ranks_per_task, run_all)
    if ranks_per_task > 1:
        raise ValueError(f'ranks_per_task={ranks_per_task}: expected executor="mpi" with it')
    with execution_on(executor, terms.threads, function) as execution:
        return run_all(execution)


@dataclass(frozen=True)
class _Terms:
    """Terms that hold for every task of a run."""

    retries: int
    threads: int
    seed: int
    limit: float | None
    then: Callable[[Outcome], Iterable[Any]] | None


@dataclass
class _Entry:
    """A task of the run."""

    task: Any
    key: str
    attempts: int = 0
    outcome: Outcome | None = None


class _Queue:
    """The tasks of a run, by key in their order, and those that wait, the longest first."""

    def __init__(self, terms: _Terms):
        self._terms = terms
        self.entries: dict[str, _Entry] = {}
        self._names: dict[str, str] = {}
        self._waiting: list[tuple[float, int, str]] = []

    def add(self, task: Any, cost: float, name: str) -> None:
        key = key_of(task, self._terms.seed, self._terms.threads)
        if key in self.entries:
            raise ValueError(
                f"{name} equals {self._names[key]}, {task!r:.60}: expected tasks that differ, such "
                'as dicts with a number of their own, {"repeat": 1, ...}'
            )
        heapq.heappush(self._waiting, (-cost, len(self.entries), key))
        self.entries[key], self._names[key] = _Entry(task, key), name

    def again(self, entry: _Entry) -> None:
        """Put a task before all others: it has been waited for once."""
        heapq.heappush(self._waiting, (-float("inf"), 0, entry.key))

    def next(self) -> _Entry | None:
        while self._waiting:
            entry = self.entries[heapq.heappop(self._waiting)[-1]]
            if entry.outcome is None:
                return entry
        return None


class _Run:
    """A run under way."""

    def __init__(
        self,
        queue: _Queue,
        terms: _Terms,
        execution: Execution,
        journal: Journal | None,
        checkpoints: Path,
        progress: Progress,
    ):
        self._queue, self._terms, self._execution = queue, terms, execution
        self._journal, self._checkpoints, self._progress = journal, checkpoints, progress
        self._taken_up = {
            key: task
            for key, task in (journal.finished if journal else {}).items()
            if terms.then or task.error is None
        }
        self._flying: dict[Future, _Entry] = {}
        self._ended = self._failed = self._old = 0

    def outcomes(self) -> list[Outcome]:
        try:
            for key in self._taken_up:  # in the order in which they ended
                if key in self._queue.entries:
                    self._take_up(self._queue.entries[key])
            while self._submitted() or self._flying:
                done, _ = wait(self._flying, return_when=FIRST_COMPLETED)
                for future in [each for each in self._flying if each in done]:
                    self._landed(self._flying.pop(future), future)
            self._show(is_last=True)
            return [entry.outcome for entry in self._queue.entries.values() if entry.outcome]
        except BaseException:
            for future in self._flying:
                future.cancel()
            self._execution.kill()
            raise

    def _submitted(self) -> bool:
        """Submit as many tasks as the execution takes, and return whether one was."""
        before = len(self._flying)
        while len(self._flying) < self._execution.capacity and (entry := self._queue.next()):
            if entry.key in self._taken_up:
                self._take_up(entry)
                continue
            entry.attempts += 1
            self._flying[self._submit(entry)] = entry
        return len(self._flying) > before

    def _submit(self, entry: _Entry) -> Future:
        terms = self._terms
        path = str(self._checkpoints / f"{entry.key}.npz")
        told = Instructions(entry.key, terms.seed, entry.attempts, terms.threads, path)
        try:
            return self._execution.submit(terms.limit, entry.task, told)
        except BrokenExecutor as error:
            failed: Future = Future()
            failed.set_exception(error)
            return failed
        except RuntimeError as error:
            raise RuntimeError(
                f"the executor takes no task ({error}): expected one that has not been shut down, "
                "as Workers are at the end of their `with` block"
            ) from error

    def _landed(self, entry: _Entry, future: Future) -> None:
        """Report a task whose attempt has ended, unless it is to be tried again."""
        result = Result(None, None, 0.0)
        try:
            result = future.result()
            error = result.error
        except WorkerDied as death:
            if entry.attempts <= self._terms.retries:
                self._queue.again(entry)
                return
            times = "" if entry.attempts == 1 else f", in {entry.attempts} attempts"
            error = f"{death} while it ran this task{times}"
        except OutOfTime as late:
            error, result = str(late), Result(None, None, late.limit)
        except (BrokenExecutor, CancelledError) as broken:
            error = (
                f"the executor broke under this task or one beside it "
                f"({type(broken).__name__}: {broken}). Give a number of workers, which outlive that"
            )
        except Exception as other:  # of sending the task or its value, or the executor's own
            error = f"{type(other).__name__}: {other}"
        self._end(entry, result.value, error, result.seconds)

    def _end(self, entry: _Entry, value: Any, error: str | None, seconds: float) -> None:
        if self._journal:
            kept = None
            try:
                kept = to_json(value)
            except TypeError as wrong:
                error = f"its value: {wrong}"
            value = from_json(kept)
            line = Task(entry.key, plain(entry.task), kept, error, seconds, entry.attempts)
            self._journal.append(line)
        if error is None:
            with contextlib.suppress(OSError):  # of another machine, or the task has removed it
                (self._checkpoints / f"{entry.key}.npz").unlink(missing_ok=True)
        self._report(entry, Outcome(entry.task, value, error, seconds, entry.attempts))

    def _take_up(self, entry: _Entry) -> None:
        kept = self._taken_up[entry.key]
        self._old += 1
        value = from_json(kept.value)
        self._report(entry, Outcome(entry.task, value, kept.error, kept.seconds, kept.attempts))

    def _report(self, entry: _Entry, outcome: Outcome) -> None:
        entry.outcome = outcome
        self._ended += 1
        self._failed += outcome.error is not None
        self._show()
        for task in self._terms.then(outcome) if self._terms.then else ():
            self._queue.add(task, 0.0, f"a task of then({outcome.task!r:.60})")

    def _show(self, is_last: bool = False) -> None:
        self._progress.show(self._ended, len(self._queue.entries), self._failed, self._old, is_last)


def _checked(costs: Sequence[float] | None, tasks: Sequence[Any]) -> Iterator[float]:
    """Yield the cost of each task; 0 for all if they are not known."""
    if costs is None:
        yield from [0.0] * len(tasks)
        return
    if len(costs) != len(tasks):
        raise ValueError(f"{len(costs)} costs of {len(tasks)} tasks: expected one for each task")
    for i, cost in enumerate(costs):
        yield as_float(f"costs[{i}]", cost, 0.0)


def _positive(name: str, value: float) -> float:
    if as_float(name, value, 0.0) == 0:
        raise ValueError(f"{name}={value}: expected more than 0")
    return float(value)
