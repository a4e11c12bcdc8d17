"""How many threads BLAS and torch use in a task."""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from joblib import cpu_count
from threadpoolctl import threadpool_limits

VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)
"""Variables of the environment that libraries read once, when they are loaded."""


def environment(threads: int) -> dict[str, str]:
    """Return the variables that hold libraries to so many threads in a process that begins."""
    return dict.fromkeys(VARIABLES, str(threads))


def check_cores(workers: int, threads: int) -> str | None:
    """Refuse threads that would share cores, and describe workers that would.

    Raises:
        ValueError: each worker is given several threads, and all of them are more than the cores.
    """
    cores = cpu_count()
    if workers * threads <= cores:
        return None
    if threads > 1:
        raise ValueError(
            f"threads={threads} for each of {workers} workers: expected at most "
            f"{max(1, cores // workers)}, since {cores} cores are available here"
        )
    return f"{workers} workers share {cores} cores: expected at most {cores} workers"


_lock = threading.Lock()
_inside: list[int] = []
_restores = ExitStack()


@contextmanager
def threads_limited(threads: int) -> Iterator[None]:
    """Hold the libraries of this process to so many threads in the block.

    Libraries that are loaded already are told by threadpoolctl, and those that the block loads find
    the variables. The limits hold for the whole process: where tasks run in several threads of it,
    they last until the last one has ended.
    """
    with _lock:
        if not _inside:
            _restores.enter_context(threadpool_limits(threads))
            _restores.enter_context(_variables(threads))
            _restores.enter_context(_torch(threads))
        _inside.append(threads)
    try:
        yield
    finally:
        with _lock:
            _inside.pop()
            if not _inside:
                _restores.close()


@contextmanager
def _variables(threads: int) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in VARIABLES}
    os.environ.update(environment(threads))
    yield
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value


@contextmanager
def _torch(threads: int) -> Iterator[None]:
    """Hold torch, if it is loaded, which counts its threads itself."""
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    yield
    torch.set_num_threads(before)
