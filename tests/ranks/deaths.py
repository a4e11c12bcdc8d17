"""What a rank leaves behind when it dies, and what is known of it afterwards."""

import faulthandler
import os
import signal
from typing import NoReturn

from tests.ranks import stacks
from tests.ranks.watchdog import Watchdog

exit_now = os._exit  # as it was before leave_traces


def leave_traces(watchdog: Watchdog, tolerant: bool) -> None:
    """Make this rank's crashes, and ``os._exit``, write their stack to the notes.

    If ranks can be survived, ``os._exit`` becomes a death by a signal: Open MPI tells the others of
    that, but not of an exit with an error code.
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


def last_words(watchdog: Watchdog, rank: int) -> str:
    """What is known of the end of a dead ``rank``."""
    left = watchdog.table.last_words(rank)
    return left or "It left no trace: SIGKILL, no memory left, or an exit in C code."
