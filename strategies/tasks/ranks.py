"""Tasks on the ranks of a launch, by `mpi4py.futures`: a worker on each, or groups of ranks."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from mpi4py import MPI
from mpi4py.futures import MPICommExecutor

from strategies.comm.on_rank_0 import sleeping_barrier
from strategies.comm.raise_together import raise_together, sendable
from strategies.tasks.attempt import Instructions, Result, attempt, attempt_elsewhere
from strategies.tasks.code import code_of
from strategies.tasks.executors import Execution, Here, InPool
from strategies.tasks.keys import text_of
from strategies.tasks.outcome import Outcome
from strategies.tasks.shared_arrays import PickledOnce, SharedArrays
from strategies.tasks.threads import check_cores
from strategies.tasks.worker import Worker
from strategies.tasks.workers import Caller, CallerPool

PATIENCE = 60.0
"""Seconds that a rank whose task has raised waits for the others of its group."""


def on_ranks(
    comm: MPI.Intracomm,
    function: Callable[[Any], Any],
    tasks: Sequence[Any],
    terms: Any,
    ranks_per_task: int,
    run_all: Callable[[Execution], list[Outcome]],
) -> list[Outcome]:
    """Have the ranks of `comm` execute tasks. Collective.

    Args:
        run_all: called on rank 0, with the way that the tasks are executed.

    Returns:
        What `run_all` returned, on every rank.

    Raises:
        ValueError: the ranks do not fit `ranks_per_task`, or were called with other arguments.
        Exception: what `run_all` raised; on every rank.
    """
    mine = [
        text_of(tasks),
        code_of(function),
        terms.seed,
        terms.threads,
        terms.limit,
        terms.retries,
    ]
    everyone = comm.allgather(mine)
    if differing := [rank for rank, each in enumerate(everyone) if each != everyone[0]]:
        raise ValueError(
            f"ranks {differing} call run_tasks with another function, other tasks or other terms "
            "than rank 0: expected the same on every rank"
        )
    node = comm.Split_type(MPI.COMM_TYPE_SHARED)
    raise_together(comm, lambda: check_cores(node.size, terms.threads))
    node.Free()
    if ranks_per_task > 1:
        _check_groups(comm.size, ranks_per_task, terms.limit)
        return _by_groups(comm, function, ranks_per_task, run_all)
    return _by_own_workers(comm, function, terms.threads, run_all)


# A worker of our own on each rank


def _by_own_workers(
    comm: MPI.Intracomm,
    function: Callable[[Any], Any],
    threads: int,
    run_all: Callable[[Execution], list[Outcome]],
) -> list[Outcome]:
    """Give each rank a worker. Rank 0 sees to the tasks while its own worker runs one."""
    arrays = SharedArrays()
    own = Worker(threads, arrays)
    _agent[:] = [(PickledOnce(function), own)]
    try:
        others = comm.size - 1
        return _served(
            comm,
            comm,
            lambda executor: _in_pool(
                [own, *[_Remote(executor, _on_own_worker)] * others], function
            ),
            run_all,
        )
    finally:
        _agent.clear()
        own.close()
        arrays.close()


_agent: list[tuple[PickledOnce, Worker]] = []
"""The function and the worker of this rank, while `_by_own_workers` runs here."""


def _on_own_worker(task: Any, instructions: Instructions, limit: float | None) -> Any:
    function, worker = _agent[0]
    return worker.call(attempt, function, task, instructions, limit=limit)


class _Remote:
    """Calls the worker of another rank, whichever `executor` finds idle."""

    def __init__(self, executor: Any, run: Callable[..., Any]):
        self._executor, self._run = executor, run

    def call(self, function: Callable[..., Any], *args: Any, limit: float | None = None) -> Any:
        _, task, instructions = args  # every rank has the function of the tasks
        return self._executor.submit(self._run, task, instructions, limit).result()

    def kill(self) -> None:
        pass  # what its rank runs is waited for

    def close(self) -> None:
        pass  # its rank does


@contextmanager
def _in_pool(callers: Sequence[Caller], function: Callable[[Any], Any]) -> Iterator[Execution]:
    with CallerPool(callers) as pool:
        yield InPool(pool, function)


def _served(
    comm: MPI.Intracomm,
    served: MPI.Intracomm,
    execution: Callable[[Any], AbstractContextManager[Execution]],
    run_all: Callable[[Execution], list[Outcome]],
) -> list[Outcome]:
    """Run all tasks from rank 0 while the other ranks of `served` execute what they are sent."""
    outcomes, error = None, None
    if served != MPI.COMM_NULL:
        executor: Any = MPICommExecutor(served) if served.size > 1 else nullcontext()
        with executor as remote:  # on the other ranks, until rank 0 has ended
            if served.rank == 0:
                try:
                    with execution(remote) as executes:
                        outcomes = run_all(executes)
                except (Exception, SystemExit) as failure:  # the other ranks must hear of it
                    error = failure
    _end_groups()
    sleeping_barrier(comm)
    outcomes, told = comm.bcast((outcomes, error and sendable(error)))
    if told:
        raise told from error
    return outcomes


# Groups of ranks


def _check_groups(ranks: int, each: int, limit: float | None) -> None:
    if ranks != each and (ranks < 1 + each or (ranks - 1) % each):
        raise ValueError(
            f"ranks_per_task={each} on {ranks} ranks: expected all ranks for one task at a time, "
            f"or {each} for each of several and one that only waits, such as {1 + 2 * each} ranks"
        )
    if limit is not None:
        raise ValueError(
            f"limit={limit} with ranks_per_task={each}: expected none, since ranks that wait for "
            "each other in MPI cannot be interrupted"
        )


def _by_groups(
    comm: MPI.Intracomm,
    function: Callable[[Any], Any],
    each: int,
    run_all: Callable[[Execution], list[Outcome]],
) -> list[Outcome]:
    """Cut the ranks into groups, whose first ranks get tasks from rank 0 and whose others follow.

    Rank 0 is in none of several groups: it waits, since it could not see to them
    while it trains.
    """
    is_alone = each == comm.size
    number, place = divmod(comm.rank - (not is_alone), each)
    is_manager = comm.rank == 0 and not is_alone
    group: Any = comm.Split(MPI.UNDEFINED if is_manager else number)
    leads: Any = comm.Split(0 if is_manager or place == 0 else MPI.UNDEFINED)
    _group[:] = [] if is_manager else [(function, group)]
    try:
        if leads == MPI.COMM_NULL:
            while (call := _next_call(group)) is not None:
                _together(function, group, *call)
        if is_alone:
            return _served(comm, leads, lambda _: nullcontext(Here(_on_group)), run_all)
        count = (comm.size - 1) // each
        return _served(
            comm,
            leads,
            lambda executor: _in_pool([_Remote(executor, _on_group)] * count, function),
            run_all,
        )
    finally:
        _group.clear()
        for derived in (group, leads):
            if derived != MPI.COMM_NULL:
                derived.Free()


_group: list[tuple[Callable[[Any], Any], MPI.Intracomm]] = []
"""The function and the group of this rank, while `_by_groups` runs here."""


def _on_group(task: Any, instructions: Instructions, limit: float | None) -> Result:
    function, group = _group[0]
    _next_call(group, (task, instructions))
    return _together(function, group, task, instructions)


def _next_call(group: MPI.Intracomm, call: Any = None) -> Any:
    """Give the ranks of a group the call that its first rank has; they sleep until then."""
    sleeping_barrier(group)
    return group.bcast(call)


def _end_groups() -> None:
    """Tell the ranks that follow this one, if any do, that there are no more tasks."""
    if _group and _group[0][1].rank == 0:
        _next_call(_group[0][1])


def _together(
    function: Callable[[Any], Any], group: MPI.Intracomm, task: Any, instructions: Instructions
) -> Result:
    """Run a task on all ranks of the group, and return the result of the first one."""
    comm = group.Dup()
    result = attempt_elsewhere(function, task, instructions, None, comm)
    ended = group.Ibarrier()
    limit = time.monotonic() + PATIENCE
    while not ended.Test():
        if result.error and time.monotonic() > limit:
            _give_up(comm, result.error)
        time.sleep(1e-3)
    comm.Free()
    errors = group.allgather(result.error)
    error = next(filter(None, errors), None)
    return Result(None if error else result.value, error, result.seconds)


def _give_up(comm: MPI.Intracomm, error: str) -> None:
    """End the launch, and say why: the other ranks wait in MPI, which nothing can end."""
    print(
        f"{error}\nRank {comm.rank} of the {comm.size} of this task has raised this. The others "
        f"have not come for {PATIENCE:g} s. Raise on all of them (strategies.comm.raise_together). "
        "A run with the same journal goes on with what has ended.",
        file=sys.stderr,
        flush=True,
    )
    comm.Abort(1)
