"""What a task may know about its own run: `current()`."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from numpy.random import Generator, SeedSequence, default_rng


@dataclass(frozen=True)
class Running:
    """The task that is running here.

    Attributes:
        key: what the task is known by, 32 hexadecimal digits.
        seeds: the task's own source of seeds. It depends on the task and on the `seed` of the run,
            never on the worker or the order. `seeds.spawn(n)` gives n independent ones.
        attempt: 1, or more if a worker has died under the task.
        threads: BLAS and torch threads that the task may use.
        checkpoint: a file of the task's own, for `train(..., checkpoint=)`. It is there again when
            the task is retried, and when the run is resumed from its journal. It is removed when
            the task has a value, and stays if it has failed.
    """

    key: str
    seeds: SeedSequence
    attempt: int
    threads: int
    checkpoint: Path
    _comm: Any = None

    @property
    def seed(self) -> int:
        """A seed for a function that takes a number, below 2**32."""
        return int(self.seeds.generate_state(1)[0])

    @cached_property
    def rng(self) -> Generator:
        """The generator of the task, which begins with `seeds`."""
        return default_rng(self.seeds)

    @property
    def comm(self) -> Any:
        """An `mpi4py` communicator of the ranks that run this task together: one, mostly."""
        if self._comm is None:
            from mpi4py import MPI

            return MPI.COMM_SELF
        return self._comm


_running: ContextVar[Running] = ContextVar("running")


def current() -> Running:
    """Return what is known about the task that is running here.

    Raises:
        RuntimeError: no task is running in this thread.
    """
    try:
        return _running.get()
    except LookupError:
        raise RuntimeError(
            "no task is running here: call current() in a function that run_tasks runs, and in "
            "the thread in which it was called"
        ) from None


@contextmanager
def running(what: Running) -> Iterator[None]:
    """Let `current()` return this in the block."""
    token = _running.set(what)
    try:
        yield
    finally:
        _running.reset(token)
