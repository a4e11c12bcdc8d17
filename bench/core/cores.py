"""The processor cores that a launch may use, and a way to use all of them from one process."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import threadpoolctl

LOOKS = 3
"""Looks in a row, of 10 ms each, in which no thread may have run."""


def available() -> int:
    """The number of cores that this launch may use, also where this process is bound to fewer.

    A launcher binds every rank to cores of its own, even a single rank; the cores that the launcher
    itself may use are the ones that the user has allowed.
    """
    return len(allowed())


def allowed() -> set[int]:
    """The numbers of these cores."""
    if not hasattr(os, "sched_getaffinity"):
        return set(range(os.cpu_count() or 1))
    cores = os.sched_getaffinity(0)
    if any(name in os.environ for name in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE")):
        cores |= os.sched_getaffinity(os.getppid())
    return cores


@contextmanager
def all_cores() -> Iterator[None]:
    """A context in which this process is bound to no core and BLAS uses a thread for every core.

    At its end everything is as before, and the threads of BLAS have stopped spinning: they spin for
    a tenth of a second after their last product, and would slow what is measured next.
    """
    try:
        with threadpoolctl.threadpool_limits(available()), unbound():
            yield
    finally:
        _settle()


@contextmanager
def unbound() -> Iterator[None]:
    """A context in which this process, and those that it starts, may use every core of the launch.

    A launcher binds each rank to a core of its own, which the processes of a rank inherit.
    """
    binding = {}
    try:
        if sys.platform == "linux":
            # Every thread has a binding of its own, inherited when it was made.
            for task in Path("/proc/self/task").iterdir():
                binding[int(task.name)] = os.sched_getaffinity(int(task.name))
                os.sched_setaffinity(int(task.name), allowed())
        yield
    finally:
        for thread, cores in binding.items():
            os.sched_setaffinity(thread, cores)


def _settle(limit: float = 1.0) -> None:
    """Sleep until no thread of this process is running, at most `limit` seconds.

    On a busy machine, a thread that spins may get no core during one look.
    """
    end, quiet = time.monotonic() + limit, 0
    while quiet < LOOKS and time.monotonic() < end:
        before = time.process_time()
        time.sleep(0.01)
        quiet = quiet + 1 if time.process_time() - before < 0.001 else 0
