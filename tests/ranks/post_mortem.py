"""Have a dying rank write down where it was, and tell the survivors."""

import faulthandler
import os
import signal
from typing import NoReturn

from . import stacks
from .watchdog import Watchdog

exit_now = os._exit  # the original, which record_exits replaces


def record_exits(watchdog: Watchdog, tolerant: bool) -> None:
    """Make crashes of this rank, and ``os._exit``, write the stack to the rank's notes.

    With fault tolerance ``os._exit`` then also ends the rank by a signal: Open MPI tells the other
    ranks of a death by signal, but not of an exit with an error code.
    """
    faulthandler.enable(watchdog.notes, all_threads=False)
    rank_itself = os.getpid()

    def _exit(status: int) -> NoReturn:
        if os.getpid() != rank_itself:  # a fork, which leaves the ordinary way
            exit_now(status)
        watchdog.notes.write(f"os._exit({status}) was called here:\n{stacks.main_thread()}")
        if tolerant:
            os.kill(rank_itself, signal.SIGKILL)
        exit_now(status)

    os._exit = _exit


def describe(watchdog: Watchdog, rank: int) -> str:
    """Say what is known about the end of a dead ``rank``."""
    notes = watchdog.table.read_notes(rank)
    return notes or "It left no trace: SIGKILL, no memory left, or an exit in C code."
