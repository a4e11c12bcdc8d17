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


@contextmanager
def threads_limited(threads: int) -> Iterator[None]:
    """Hold the libraries of this process to so many threads in the block.

    Libraries that are loaded already are told by threadpoolctl, and those that the block loads find
    the variables, which these keep.
    """
    if threading.current_thread() is threading.main_thread():
        with threadpool_limits(threads), _variables(threads):
            yield
    else:
        with _shared_limits(threads), threadpool_limits(threads, user_api="openmp"):
            yield


_lock = threading.Lock()
_inside = 0
_restores = ExitStack()


@contextmanager
def _shared_limits(threads: int) -> Iterator[None]:
    """Hold what all threads of this process share, until the last of the blocks has ended.

    OpenMP counts for each thread by itself, and is none of it.
    """
    global _inside
    with _lock:
        if not _inside:
            for limits in (_blas, _variables, _torch):
                _restores.enter_context(limits(threads))
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                _restores.close()


@contextmanager
def _blas(threads: int) -> Iterator[None]:
    """Hold BLAS from a thread made for it.

    threadpoolctl lifts a limit in the thread that set it, and the block may end in another one.
    """
    is_set, is_over = threading.Event(), threading.Event()

    def hold() -> None:
        with threadpool_limits(threads, user_api="blas"):
            is_set.set()
            is_over.wait()

    holder = threading.Thread(target=hold, daemon=True)
    holder.start()
    is_set.wait()
    yield
    is_over.set()
    holder.join()


@contextmanager
def _variables(threads: int) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in VARIABLES}
    os.environ.update(environment(threads))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _torch(threads: int) -> Iterator[None]:
    """Hold torch, if it is loaded, which sets OpenMP anew in every thread that it meets."""
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
