"""Have a dying rank write down where it was, and tell the survivors."""

import faulthandler
import os
import signal
from collections.abc import Callable
from typing import NoReturn

from . import stacks
from .watchdog import Watchdog

exit_now = os._exit  # the original, which others replace


def record_crashes(watchdog: Watchdog) -> None:
    """Make crashes of this rank write the stack to the rank's notes."""
    faulthandler.enable(watchdog.notes, all_threads=False)


def record_exits(watchdog: Watchdog, by_signal: bool) -> None:
    """Make ``os._exit`` write the stack to the rank's notes, and end the rank with an error.

    A run that breaks off has proven nothing, whatever code it breaks off with.

    Args:
        by_signal: end the rank by a signal. With fault tolerance Open MPI tells the other ranks of
            a death by signal, but not of an exit with an error code.
    """

    def end(status: int) -> NoReturn:
        stack = stacks.main_thread().partition(f'  File "{__file__}"')[0]  # without these lines
        watchdog.notes.write(f"os._exit({status}) was called here:\n{stack}")
        if by_signal:
            os.kill(os.getpid(), signal.SIGKILL)
        exit_now(status or 1)

    replace_exit(end)


def replace_exit(end: Callable[[int], NoReturn]) -> None:
    """Make ``os._exit`` of this process ``end``. Its forks leave the ordinary way."""
    rank_itself = os.getpid()

    def _exit(status: int) -> NoReturn:
        if os.getpid() == rank_itself:
            end(status)
        exit_now(status)

    os._exit = _exit


def describe(watchdog: Watchdog, rank: int) -> str:
    """Say what is known about the end of a dead ``rank``."""
    notes = watchdog.table.read_notes(rank)
    return notes or "It left no trace: SIGKILL, no memory left, or an exit in C code."
