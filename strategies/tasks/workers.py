"""Workers of our own, as an executor of `concurrent.futures`."""

import queue
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from typing import Any, Protocol

from nn.arguments import as_int
from strategies.tasks.shared_arrays import SharedArrays
from strategies.tasks.threads import check_cores
from strategies.tasks.worker import Worker


class Caller(Protocol):
    """Something that runs one call at a time in a process of its own: a `Worker`, or its like."""

    def call(self, function: Callable[..., Any], *args: Any, limit: float | None = None) -> Any: ...

    def kill(self) -> None: ...

    def close(self) -> None: ...


class CallerPool(Executor):
    """An executor over callers, each with a thread here that waits for it.

    A caller that dies of a call fails that call alone: the others know nothing of each other.
    """

    def __init__(self, callers: Sequence[Caller]):
        self.callers = list(callers)
        self._idle: queue.SimpleQueue[Caller] = queue.SimpleQueue()
        for caller in self.callers:
            self._idle.put(caller)
        self._waiters = ThreadPoolExecutor(len(self.callers), "lockstep-tasks")
        self._pending: set[Future] = set()

    @property
    def size(self) -> int:
        """How many calls run at a time."""
        return len(self.callers)

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        return self.submit_within(None, _called, function, args, kwargs)

    def submit_within(
        self, limit: float | None, function: Callable[..., Any], *args: Any
    ) -> Future:
        """Submit `function(*args)`, which may take `limit` seconds once it has begun.

        The future raises WorkerDied if the process died of the call, and OutOfTime if the process
        was killed because the call took longer.
        """
        future = self._waiters.submit(self._call, limit, function, args)
        self._pending.add(future)
        future.add_done_callback(self._pending.discard)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the workers, after the calls that were submitted unless they are cancelled."""
        self._waiters.shutdown(wait, cancel_futures=cancel_futures)
        if wait:
            self._close()

    def kill(self) -> None:
        """End all calls now, with the processes that run them: later calls start others."""
        pending = [future for future in list(self._pending) if not future.cancel()]
        while True:
            for caller in self.callers:
                caller.kill()
            # A call that had not reached its process is killed in the next turn.
            if not wait(pending, timeout=0.05).not_done:
                return

    def _close(self) -> None:
        for caller in self.callers:
            caller.close()

    def _call(self, limit: float | None, function: Callable[..., Any], args: Any) -> Any:
        caller = self._idle.get_nowait()  # there is one for every thread
        try:
            return caller.call(function, *args, limit=limit)
        finally:
            self._idle.put(caller)


class Workers(CallerPool):
    """Worker processes of our own that several runs may use, one after the other.

        with Workers(4) as workers:
            first = run_tasks(function, tasks, workers)
            second = run_tasks(function, others, workers)

    Args:
        count: how many processes.
        threads: BLAS and torch threads of each.

    Raises:
        TypeError, ValueError: not numbers from 1 on, or the threads are more than the cores.
    """

    def __init__(self, count: int, threads: int = 1):
        count, self.threads = as_int("workers", count, 1), as_int("threads", threads, 1)
        check_cores(count, self.threads)
        self._arrays = SharedArrays()
        self._workers = [Worker(self.threads, self._arrays) for _ in range(count)]
        super().__init__(self._workers)

    def processes(self) -> set[int]:
        """Return the numbers of the processes that have been started and have not been replaced."""
        return {worker.pid for worker in self._workers if worker.pid is not None}

    def forget(self) -> None:
        """Forget which arrays have been sent: they may have changed since."""
        self._arrays.forget()

    def _close(self) -> None:
        super()._close()
        self._arrays.close()


def _called(function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    return function(*args, **kwargs)
