"""Give each phase of a test a deadline, and get a rank out of a phase that overruns it.

======== ===========================================================================================
deadline the stack of this rank is saved
+ 0.2 s  every communicator of the test is revoked on all ranks (all have saved their stacks by now)
+ 0.5 s  Interrupted is raised in the main thread, which ends Python loops and sleeps
+ 1.5 s  the stack once more, written from C, for a rank whose C code holds the interpreter
+ 4 s    the guard kills this rank; the others go on without it
======== ===========================================================================================

The death of another rank brings the deadline forward. Without fault tolerance the run cannot go
on: stacks are printed, and the launch is aborted two seconds later, when the other ranks have
printed theirs too, from Python or from C.
"""

import faulthandler
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType
from typing import NoReturn

from . import guard, stacks
from .control import Control, allgather
from .mpi import MPI
from .world import LAUNCHED

GRACE = {"failed": 0.25, "xfailed": 0.25, "skipped": 1.0}
"""Seconds for which a rank that failed waits for the others before it revokes communicators.

A skip waits longer: if all ranks skip, the test is skipped, but after a revocation it would fail.
"""

_KILL_AFTER = 4.0
_CHECK_EVERY = 0.25  # seconds between two checks for ranks that have ended
_MPI_REPORTS = 0.5  # if MPI reports a death, it does so in less time
# Seconds between two aborts: Open MPI may never end if ranks abort at the same time.
_PRINT_TIME = 2.0

Step = tuple[float, Callable[[], object]]


class Interrupted(BaseException):
    """Raised in the main thread of a rank that has to leave its phase. Tests must let it pass."""


@dataclass(frozen=True)
class Overrun:
    """A phase that this rank had to be taken out of."""

    reason: str
    stack: str
    forced: bool  # true: another rank has died; false: the deadline has passed


class Watchdog:
    """A thread that watches this rank's main thread, phase by phase."""

    def __init__(self, control: Control) -> None:
        self.rank = control.rank
        self.overrun: Overrun | None = None  # of the current or latest phase
        self._control = control
        self._armed = False
        self._heading = ""  # first line of the notes
        self._seconds = 0.0
        self.deadline = 0.0  # of the current or latest phase, as time.monotonic()
        self._steps: list[Step] = []
        self._changed = threading.Condition()
        self._terminated = False  # the launcher is ending this rank, and may drop what it prints
        self._stderr = os.dup(2)  # the real one: pytest's capturing replaces descriptor 2 by a file
        self._join_node()
        self.notes = self.table.notes(self.rank).open("a", buffering=1)
        signal.signal(signal.SIGUSR1, self._on_signal)
        signal.signal(signal.SIGTERM, self._on_termination)
        # In a rank that waits in C, Python's handler runs late or never, and SIGKILL follows soon.
        faulthandler.register(signal.SIGTERM, self.notes, all_threads=False, chain=True)
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def _join_node(self) -> None:
        """Open the table of this node. The first rank of the node starts the guard."""
        node = LAUNCHED.Split_type(MPI.COMM_TYPE_SHARED)
        self._row = node.rank
        folder = allgather(node, guard.Table.create(node.size) if node.rank == 0 else None)[0]
        self.table = self._control.table = guard.Table(folder)
        self.kill_in(None)
        node.Barrier()
        if node.rank == 0:
            launcher = os.getppid() if LAUNCHED.size > 1 else 0
            guard.start(folder, self._stderr, launcher, LAUNCHED.size > node.size)
        node.Free()

    @contextmanager
    def phase(self, seconds: float) -> Iterator[None]:
        """Give the block ``seconds`` to finish."""
        self.arm(seconds)
        try:
            yield
        finally:
            self.disarm()

    def arm(self, seconds: float) -> None:
        """Begin a phase that may take ``seconds``."""
        # Not at the end of the last phase: the other ranks look whether all have failed.
        self.table.failed(self.rank).unlink(missing_ok=True)
        with self._changed:
            if self.overrun is not None:
                self.reset_notes(self._heading)  # drop the stack of the last phase
            self.overrun = None
            self._seconds, self.deadline = seconds, time.monotonic() + seconds
            self._steps = self._escalation()
            self._armed = True
            self.kill_in(seconds + _KILL_AFTER)
            self._changed.notify()
        faulthandler.dump_traceback_later(seconds + 1.5, exit=False, file=self.notes)

    def disarm(self) -> None:
        """End the phase."""
        # Before anything else, so that a signal under way no longer raises.
        self._armed = False
        faulthandler.cancel_dump_traceback_later()
        with self._changed:
            self._steps = []
            self.kill_in(None)

    def failed(self) -> None:
        """Take the other ranks out of a phase in which this rank has failed, before it cleans up.

        If it frees a communicator before it has refused what others are sending by it, MPI can no
        longer stop them.
        """
        with suppress(OSError):  # a full disk
            self.table.failed(self.rank).touch()
        if not self._progress(GRACE["failed"], self._all_have_failed):
            self._control.unblock()
            self._progress(GRACE["failed"])

    def _all_have_failed(self) -> bool:
        return all(self.table.failed(rank).exists() for rank in self._control.alive)

    def _progress(self, seconds: float, done: Callable[[], bool] = lambda: False) -> bool:
        """Have MPI receive and answer for some seconds; return whether ``done()`` ended it."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if done():
                return True
            MPI.COMM_SELF.Iprobe()
            time.sleep(0.005)
        return False

    def kill_in(self, seconds: float | None) -> None:
        """Have the guard kill this rank after ``seconds`` (None: never), unless called again."""
        kill_at = 0.0 if seconds is None else time.monotonic() + seconds
        self.table[self._row] = guard.Row(os.getpid(), self.rank, self._stderr, kill_at)

    def reset_notes(self, heading: str) -> None:
        """Empty this rank's notes, and begin them with the line ``heading`` if it is not empty."""
        self._heading = heading
        if not self._terminated:
            self.notes.truncate(0)
            self.notes.write(f"{heading}\n" if heading else "")

    def print_now(self, text: str, rank: int | None = None) -> None:
        """Print at once, bypassing all capturing; each line begins with the rank (default: own)."""
        name = self.rank if rank is None else rank
        lines = "".join(f"[rank {name}] {line}\n" for line in text.splitlines())
        os.write(self._stderr, lines.encode(errors="replace"))

    @property
    def terminated(self) -> bool:
        """Whether the launcher is ending this rank, and may drop what it prints."""
        return self._terminated

    def print_failures(self) -> None:
        """Print which tests have failed so far, unless it has been done.

        A rank that the launcher is ending leaves it to the guard: its output may get lost.
        """
        if not self._terminated and (failures := self.table.take_failures()):
            self.print_now("\n".join([guard.FAILED_SO_FAR, *failures]))

    def abort(self) -> NoReturn:
        """Abort the launch. The first rank that does prints the notes of all ranks before."""
        try:
            self.table.printed.touch(exist_ok=False)
        except FileExistsError:
            time.sleep(_PRINT_TIME)  # another rank was first, and is printing
        else:
            for rank in self._control.alive:
                self.print_now(self.table.read_notes(rank), rank)
            self.print_failures()
        LAUNCHED.Abort(1)
        raise SystemExit(1)

    def leave(self) -> None:
        """Tell the guard that this rank is about to end in order."""
        # MPICH's launcher may send it when another rank ends, and Python drops its handlers soon.
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        if not self._terminated:
            self.table[self._row] = guard.Row()

    # The rest runs in the watchdog's thread, except the signal handlers.

    def _escalation(self) -> list[Step]:
        if self._control.tolerant:
            return [
                (0.0, self._save_stack),
                (0.2, self._control.unblock),
                (0.5, self._interrupt),
            ]
        return [(0.0, self._save_stack), (0.0, self._print_stack), (2.0, self.abort)]

    def _watch(self) -> None:
        with self._changed:
            while True:
                self._changed.wait(self._pause())
                while self._steps and self._due() <= 0:
                    self._steps.pop(0)[1]()
                if self._steps and self.overrun is None:
                    self._check_for_deaths()
                if self._steps and self._is_to_revoke():
                    self._control.unblock()

    def _pause(self) -> float | None:
        return min(max(self._due(), 0.0), _CHECK_EVERY) if self._steps else None

    def _due(self) -> float:
        return self.deadline + self._steps[0][0] - time.monotonic()

    def _is_to_revoke(self) -> bool:
        control = self._control
        return not (control.apart or control.revoked) and self.table.revoking.exists()

    def _check_for_deaths(self) -> None:
        """Take this rank out of its phase if another rank has ended: the test cannot pass now."""
        seconds = _MPI_REPORTS if self._control.tolerant else 0.0
        gone = [rank for rank in self.table.gone(seconds) if rank in self._control.alive]
        if gone:
            self._steps = self._escalation()[1:]
            self._save_stack(f"interrupted, because rank {gone[0]} has ended")
            self.deadline = time.monotonic()
            self.kill_in(_KILL_AFTER)

    def _save_stack(self, forced: str = "") -> None:
        reason = forced or f"did not finish within {self._seconds:g} s"
        self.overrun = Overrun(reason, stacks.main_thread(), bool(forced))
        self.notes.write(f"{reason}; it was here:\n{self.overrun.stack}")

    def _print_stack(self) -> None:
        if self.overrun:
            self.print_now(f"{self.overrun.reason}; it was here:\n{self.overrun.stack}")
            faulthandler.cancel_dump_traceback_later()
            self.notes.truncate(0)  # printed

    def _interrupt(self) -> None:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        if self._armed and self.overrun:
            raise Interrupted(self.overrun.reason)

    def _on_termination(self, signum: int, frame: FrameType | None) -> None:
        """Stop, because the launcher ends the run: on Ctrl-C, or after another rank has ended."""
        self._terminated = True
        raise KeyboardInterrupt("terminated by the launcher")
