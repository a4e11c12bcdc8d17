"""How a run ends: in order, or, after the death of a rank, without Finalize."""

import atexit
import os
import sys
import time
from typing import NoReturn

from tests.ranks.control import Control
from tests.ranks.mpi import MPI

# os._exit as it was before deaths.py replaced it.
_exit = os._exit


def finish(control: Control, code: int) -> None:
    """Leave MPI. After a death this ends the process with ``code``, since Finalize would hang.

    The leader goes last: the launcher kills what is left when a rank leaves with an error, and it
    takes its own exit code from it.
    """
    if control.whole:
        MPI.Finalize()
        return
    leave(control, code)


def leave(control: Control, code: int) -> NoReturn:
    """End this process now, in the order that keeps the leader's exit code."""
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    if control.rank != control.leader:
        _exit(0)
    time.sleep(0.3)
    _exit(code)
