"""A process of our own that runs one call after the other, and may die of one."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

from strategies.launchers import without_launcher
from strategies.tasks.shared_arrays import SharedArrays
from strategies.tasks.threads import environment
from strategies.tasks.time_limit import OutOfTime

_PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from strategies.tasks.worker_process import serve; serve(int(sys.argv[2]), sys.argv[3:])"
)
_QUICK = {
    # A world of one needs no network. Open MPI takes a second to find out which ones there are.
    "OMPI_MCA_btl": "self,sm",
    # glibc reuses what is freed, of arrays below the first number of bytes, up to the second. It
    # would give large arrays back to the system, which zeroes the pages of all processes in turn.
    "MALLOC_MMAP_THRESHOLD_": str(2**25),
    "MALLOC_TRIM_THRESHOLD_": str(2**29),
}
"""Variables of the environment that make a worker quicker; what the user has set wins."""

_LOOKS = 1.0  # seconds between two looks at a process whose connection a child of it holds open
_LAST_WORDS = 1.0  # seconds that a process which has closed its connection has to end by itself
_STARTS = 3  # in a row that fail before a call is given up


class WorkerDied(Exception):
    """The process died while it ran a call."""

    def __init__(self, code: int | None):
        super().__init__(code)
        self.code = code

    def __str__(self) -> str:
        if self.code is not None and self.code < 0:
            with contextlib.suppress(ValueError):
                name = signal.Signals(-self.code).name
                why = " (is memory short?)" if name == "SIGKILL" else ""
                return f"its worker died by {name}{why}"
        return f"its worker ended with exit code {self.code}"


class Closed(Exception):
    """The worker was closed while it ran a call, or before."""


class Worker:
    """One process, which is started by the first call, and again by the first one after a death.

    It has the thread limits in its environment before it loads a library, and none of the variables
    by which a launcher makes it a rank. It leads a process group, so that what a task has started
    ends with it, and Ctrl-C in the terminal does not reach it. It ends when this process does.
    """

    def __init__(self, threads: int, arrays: SharedArrays):
        self._threads, self._arrays = threads, arrays
        self._process: subprocess.Popen | None = None
        self._connection: Connection | None = None
        self._lock, self._closed = threading.Lock(), False

    @property
    def pid(self) -> int | None:
        """Number of the process; None before the first call, and after a death."""
        return self._process.pid if self._process else None

    def call(self, function: Callable[..., Any], *args: Any, limit: float | None = None) -> Any:
        """Return what `function(*args)` returns in the process.

        Raises:
            WorkerDied: the process died while it ran the call.
            OutOfTime: it took longer than `limit` seconds, and the process was killed.
            Closed: the worker is closed.
            BaseException: what the call raised; or it cannot be sent, or its result cannot.
        """
        messages = [self._arrays.message(part) for part in (function, *args)]
        for _ in range(_STARTS):
            # A process that dies before it has begun the call has died of something else.
            if self._begun(messages):
                break
            code = self._buried()
        else:
            raise RuntimeError(
                f"a worker ended {_STARTS} times before it could begin with this, the last time "
                f"with exit code {code}: what it said is on stderr"
            )
        kind, value = self._received(limit)
        if kind == "late":
            self.kill()
            self._buried()
            raise OutOfTime(limit or 0.0)
        if kind == "died":
            raise WorkerDied(self._buried())
        if kind == "error":
            raise value
        return value

    def kill(self) -> None:
        """End the process, and all that it has started, now."""
        process = self._process
        if process and process.returncode is None:  # else another process may have its number
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)

    def close(self) -> None:
        """End the process for good, also from another thread while a call is running."""
        with self._lock:
            self._closed = True
            self.kill()
            if self._process:
                _wait(self._process)
                assert self._process.stdin
                self._process.stdin.close()

    def _begun(self, messages: Sequence[bytes]) -> bool:
        """Send a call to the process, and return whether it has begun it."""
        if self._process is None:
            self._start()
        assert self._connection
        with contextlib.suppress(OSError):
            self._connection.send(len(messages))
            for message in messages:
                self._connection.send_bytes(message)
        return self._received(None)[0] == "began"

    def _start(self) -> None:
        ours, theirs = Pipe()
        with self._lock, theirs:
            if self._closed:
                raise Closed("the worker is closed")
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-c", _PROGRAM, json.dumps(sys.path), str(theirs.fileno())),
                    *(str(self._arrays.folder), *_preloaded()),
                ],
                env=_QUICK | without_launcher(os.environ) | environment(self._threads),
                pass_fds=[theirs.fileno()],
                stdin=subprocess.PIPE,  # never written to: its end is the end of this process
                start_new_session=True,
            )
        self._connection = ours

    def _received(self, limit: float | None) -> tuple[str, Any]:
        """Return the next message: ("late", None) without one in time, or ("died", None)."""
        assert self._process
        assert self._connection
        ends = None if limit is None else time.monotonic() + limit
        while True:
            rest = _LOOKS if ends is None else ends - time.monotonic()
            if rest <= 0:
                return "late", None
            try:
                is_dead = _has_ended(self._process)  # asked first, since its last words count
                if self._connection.poll(0 if is_dead else min(rest, _LOOKS)):
                    return self._connection.recv()
                if is_dead:
                    return "died", None
            except (EOFError, OSError):
                return "died", None

    def _buried(self) -> int | None:
        """Forget the process, which has died or will, and return its exit code."""
        with self._lock:
            process, connection = self._process, self._connection
            if self._closed:
                raise Closed("the worker was closed while it ran a call")
            assert process
            assert connection
            ends = time.monotonic() + _LAST_WORDS
            while not _has_ended(process) and time.monotonic() < ends:
                time.sleep(1e-3)  # its connection is closed before it has its exit code
            self.kill()  # its children; itself, if it has only closed its connection
            code = _wait(process)
            connection.close()
            self._process = self._connection = None
            return code


def _has_ended(process: subprocess.Popen) -> bool:
    """Whether a process has ended. Its number stays taken until it is waited for."""
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _wait(process: subprocess.Popen) -> int:
    """Wait for the end of a process that has been killed, and return its exit code."""
    code = process.wait()
    assert process.stdin
    process.stdin.close()
    return code


def _preloaded() -> list[str]:
    """Modules that a worker imports before its first task, whose time they do not count in."""
    return [name for name in ("torch",) if name in sys.modules]
