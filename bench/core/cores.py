"""The processor cores that a launch may use, and a way to use all of them from one process."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import threadpoolctl

LOOK = 0.005
"""Seconds; the system counts the time of a running thread every 4 ms, or more often."""


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

    At its end everything is as before, and the threads of BLAS have stopped spinning, which they do
    for a tenth of a second after their last product.
    """
    try:
        with threadpoolctl.threadpool_limits(available()), unbound():
            yield
    finally:
        settle(looks=6)  # on a busy machine, a thread that spins may get no core during one look


@contextmanager
def all_torch_threads() -> Iterator[None]:
    """As `all_cores`, for torch, whose products obey more than OpenMP's number of threads."""
    import torch

    with all_cores():
        torch.set_num_threads(available())
        try:
            yield
        finally:
            torch.set_num_threads(1)


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
                with suppress(ProcessLookupError):  # a thread may end at any time
                    binding[int(task.name)] = os.sched_getaffinity(int(task.name))
                    os.sched_setaffinity(int(task.name), allowed())
        yield
    finally:
        for thread, cores in binding.items():
            with suppress(ProcessLookupError):
                os.sched_setaffinity(thread, cores)


@contextmanager
def on_core(number: int) -> Iterator[None]:
    """A context in which this thread is bound to one of the cores of `allowed`, counted from 0."""
    if sys.platform != "linux":
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {sorted(allowed())[number]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def settle(looks: int = 1, limit: float = 1.0) -> None:
    """Sleep until no thread of this process has run in so many looks, at most `limit` seconds.

    Threads of BLAS and OpenMP spin for a while after their last task, and would slow what is
    measured next.
    """
    end, quiet = time.monotonic() + limit, 0
    while quiet < looks and time.monotonic() < end:
        before = time.process_time()
        time.sleep(LOOK)
        quiet = quiet + 1 if time.process_time() - before < LOOK / 10 else 0
