"""End a run: by MPI_Finalize, or, after a rank has died, without it, because it would hang."""

import atexit
import sys
import time
from typing import NoReturn

from .control import Control
from .mpi import MPI
from .post_mortem import exit_now, replace_exit
from .watchdog import Watchdog

_FINALIZE_TIME = 20.0


def shut_down(control: Control, watchdog: Watchdog, code: int) -> None:
    """Leave MPI. If Finalize is not safe any more, the process ends here with exit code ``code``.

    The leader then goes last: the launcher takes its exit code from the rank that leaves with an
    error, and kills the ranks that are still there.
    """

    def end(status: int) -> NoReturn:
        watchdog.leave()
        exit_now(status or code)  # what calls os._exit(0) at exit does not hide a failure

    replace_exit(end)
    if control.can_finalize:
        watchdog.kill_in(_FINALIZE_TIME)
        MPI.Finalize()
        if code and len(control.alive) > 1:
            # Before the goodbye: if they end the process with 0, in C, the guard makes it an error.
            watchdog.kill_in(None)
            atexit._run_exitfuncs()
        watchdog.leave()
        return
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    watchdog.leave()
    if control.rank != control.leader:
        exit_now(0)
    time.sleep(0.3)
    exit_now(code)
