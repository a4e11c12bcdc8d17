"""End all ranks of a program when one raises: the others would wait for it for ever.

`python -m mpi4py` does the same for whoever starts a program so. This is for plain `python`.
"""

import contextlib
import os
import signal
import socket
import sys
import time
from types import TracebackType

from mpi4py import MPI
from mpi4py.run import set_abort_status

_ABORTED = 5.0
"""Seconds in which the launcher ends the other ranks after one has aborted."""

_ENDS = 30
"""Seconds that a rank has from its error to its end, atexit functions included."""


def abort_on_error() -> None:
    """From now on, an exception that nothing catches ends all ranks, after its traceback.

    Has no effect in a world of one rank, nor in pytest, which catches all exceptions itself.
    """
    shown = sys.excepthook

    def show_and_abort(
        kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        shown(kind, error, trace)
        if _others_wait() and not (sys.flags.interactive or hasattr(sys, "ps1")):
            _abort(error)

    sys.excepthook = show_and_abort


def _others_wait() -> bool:
    """Whether this process is one of several ranks now; a program may start MPI late, or never."""
    return MPI.Is_initialized() and not MPI.Is_finalized() and MPI.COMM_WORLD.size > 1


def _abort(error: BaseException) -> None:
    """Have mpi4py abort when this process ends, one rank of a node after the other.

    Open MPI may never end, or end with exit code 0, if ranks abort at the same time and its
    mpiexec was started with `--with-ft`.
    """
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    set_abort_status(error)
    if not _is_first():
        time.sleep(_ABORTED)
    with contextlib.suppress(ValueError):  # outside the main thread
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(_ENDS)


def _is_first() -> bool:
    """Whether no other rank of this launch on this node has come here.

    Linux lets one process have a name of a socket, and gives it back when that process ends.
    """
    name = socket.socket(socket.AF_UNIX)
    with contextlib.suppress(OSError):
        launch = os.environ.get("PMIX_NAMESPACE", os.getppid())
        name.bind(f"\0lockstep-abort-{os.getuid()}-{launch}")
        _names.append(name)
        return True
    return False


_names: list[socket.socket] = []
