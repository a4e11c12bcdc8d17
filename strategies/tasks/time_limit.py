"""A limit of time for a task in a process that may not be killed for it."""

import ctypes
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class OutOfTime(Exception):
    """A task took longer than its limit."""

    def __init__(self, limit: float):
        super().__init__(limit)
        self.limit = limit

    def __str__(self) -> str:
        return f"the task took longer than limit={self.limit:g} seconds, and was ended"


class _Interrupted(BaseException):
    """Ends a task; no base class of it is one that tasks catch."""


@contextmanager
def time_limit(limit: float | None) -> Iterator[None]:
    """Interrupt the block once it has run for `limit` seconds; None: never.

    In the main thread an alarm interrupts it, even where it sleeps. In another thread the next
    line of Python is interrupted, so a task that waits in C ends when it comes back.

    Raises:
        OutOfTime: the block took longer.
    """
    if limit is None:
        yield
        return
    in_main = threading.current_thread() is threading.main_thread()
    arm = _alarm if in_main and hasattr(signal, "setitimer") else _timer
    try:
        with arm(limit):
            yield
    except _Interrupted:
        raise OutOfTime(limit) from None


@contextmanager
def _alarm(limit: float) -> Iterator[None]:
    def interrupt(*_: Any) -> None:
        raise _Interrupted

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, limit)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def _timer(limit: float) -> Iterator[None]:
    thread, lock, over = ctypes.c_ulong(threading.get_ident()), threading.Lock(), False

    def interrupt() -> None:
        with lock:
            if not over:
                kind = ctypes.py_object(_Interrupted)
                ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, kind)

    timer = threading.Timer(limit, interrupt)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        with lock:
            over = True
        timer.cancel()
