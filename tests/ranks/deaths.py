"""What a rank leaves behind when it dies, and what is known of it afterwards."""

import faulthandler
import os
import signal
from typing import NoReturn

from tests.ranks import stacks
from tests.ranks.watchdog import Watchdog

exit_now = os._exit  # as it was before leave_traces


def leave_traces(watchdog: Watchdog) -> None:
    """Make crashes of this rank write their stack to the notes, and ``os._exit`` survivable.

    Open MPI tells the other ranks of a death by a signal, but not of an exit with an error code.
    """
    faulthandler.enable(watchdog.notes, all_threads=False)
    rank_itself = os.getpid()

    def _exit(status: int) -> NoReturn:
        if os.getpid() != rank_itself:  # a fork, which leaves the ordinary way
            exit_now(status)
        watchdog.notes.write(f"os._exit({status}) was called here:\n{stacks.main_thread()}")
        os.kill(rank_itself, signal.SIGKILL)
        raise AssertionError("unreachable")

    os._exit = _exit


def last_words(watchdog: Watchdog, rank: int) -> str:
    """What is known of the end of a dead ``rank``."""
    path = watchdog.table.notes(rank)
    text = path.read_text() if path.exists() else ""
    return text or "It left no trace: SIGKILL, no memory left, or an exit in C code."
