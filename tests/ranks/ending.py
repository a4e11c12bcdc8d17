"""How a run ends: in order, or, after the death of a rank, without Finalize, which would hang."""

import atexit
import sys
import time

from tests.ranks.control import Control
from tests.ranks.deaths import exit_now
from tests.ranks.mpi import MPI
from tests.ranks.watchdog import Watchdog

_FINALIZE_TIME = 20.0


def end(control: Control, watchdog: Watchdog, code: int) -> None:
    """Leave MPI. If ranks have died, or communicators were revoked, the process ends here.

    The leader then goes last: the launcher takes its exit code from the rank that leaves with an
    error, and kills those that are still there.
    """
    if control.whole:
        watchdog.kill_in(_FINALIZE_TIME)
        MPI.Finalize()
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
