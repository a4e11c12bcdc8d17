"""The deadline of a phase, and what follows when a rank overruns it.

======== ===========================================================================================
deadline the stack of this rank is kept
+ 0.2 s  every communicator of the test is revoked on all ranks (who have their stacks by now)
+ 0.5 s  Interrupted is raised in the main thread, which ends Python loops and sleeps
+ 1.5 s  the stack once more, written from C, for a rank whose C code holds the interpreter
+ 2 s    COMM_WORLD is revoked too: later tests that use it directly will fail
+ 4 s    the guard kills this rank; the others go on without it
======== ===========================================================================================

The death of another rank brings the deadline forward. Without fault tolerance there is nothing to
go on with: stacks are printed, and the launch is aborted two seconds later, when all other ranks
have printed theirs, or have it written from C.
"""

import faulthandler
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import NoReturn

from tests.ranks import guard, stacks
from tests.ranks.control import Control, allgather
from tests.ranks.mpi import MPI

_KILL_AFTER = 4.0
_LOOK_AROUND = 0.25  # seconds between two looks at who has gone
_MPI_TELLS = 0.5  # MPI needs less to report a death, if it does
_TELLING = 0.5

Step = tuple[float, Callable[[], object]]


class Interrupted(BaseException):
    """Raised in the main thread of a rank that has to leave its phase. Not to be swallowed."""


@dataclass(frozen=True)
class Overrun:
    """A phase that this rank did not leave by itself."""

    reason: str
    stack: str
    forced: bool  # by the death of another rank, and not by the deadline


class Watchdog:
    """Watches the main thread of this rank, phase by phase, from a thread of its own."""

    def __init__(self, control: Control) -> None:
        self.rank = control.rank
        self.overrun: Overrun | None = None  # of the current or latest phase
        self._control = control
        self._armed = False
        self._heading = ""  # of the notes: where this rank is, in a test of its own
        self._seconds = 0.0
        self.deadline = 0.0  # of the current or latest phase, as time.monotonic()
        self._steps: list[Step] = []
        self._changed = threading.Condition()
        self._terminated = False  # by the launcher, which may not pass on what is printed now
        self._stderr = os.dup(2)  # the real one: capturing puts a file in the place of fd 2
        self._join_node()
        self.notes = self.table.notes(self.rank).open("a", buffering=1)
        signal.signal(signal.SIGUSR1, self._on_signal)
        signal.signal(signal.SIGTERM, self._on_termination)
        # Python's handler comes late or never to a rank that waits in C, and SIGKILL follows soon.
        faulthandler.register(signal.SIGTERM, self.notes, all_threads=False, chain=True)
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def _join_node(self) -> None:
        """Open the table of this node; its first rank starts the guard."""
        node = MPI.COMM_WORLD.Split_type(MPI.COMM_TYPE_SHARED)
        self._row = node.rank
        folder = allgather(node, guard.Table.create(node.size) if node.rank == 0 else None)[0]
        self.table = guard.Table(folder)
        self.kill_in(None)
        node.Barrier()
        if node.rank == 0:
            launcher = os.getppid() if MPI.COMM_WORLD.size > 1 else 0
            guard.start(folder, self._stderr, launcher)
        node.Free()

    @contextmanager
    def phase(self, seconds: float) -> Iterator[None]:
        """Give the block ``seconds``."""
        self.arm(seconds)
        try:
            yield
        finally:
            self.disarm()

    def arm(self, seconds: float) -> None:
        with self._changed:
            if self.overrun is not None:
                self.begin_notes(self._heading)  # without those of a phase that is over
            self.overrun = None
            self._seconds, self.deadline = seconds, time.monotonic() + seconds
            self._steps = self._escalation()
            self._armed = True
            self.kill_in(seconds + _KILL_AFTER)
            self._changed.notify()
        faulthandler.dump_traceback_later(seconds + 1.5, exit=False, file=self.notes)

    def disarm(self) -> None:
        # First of all, so that a signal under way no longer raises.
        self._armed = False
        faulthandler.cancel_dump_traceback_later()
        with self._changed:
            self._steps = []
            self.kill_in(None)

    def kill_in(self, seconds: float | None) -> None:
        """Have the guard kill this rank unless it says otherwise within ``seconds``."""
        kill_at = 0.0 if seconds is None else time.monotonic() + seconds
        held = self._stderr if self._control.tolerant else -1
        self.table[self._row] = guard.Row(os.getpid(), self.rank, held, kill_at)

    def begin_notes(self, heading: str) -> None:
        """Forget what the notes say; write down ``heading``, if any."""
        self._heading = heading
        if not self._terminated:
            self.notes.truncate(0)
            self.notes.write(f"{heading}\n" if heading else "")

    def say(self, text: str, rank: int | None = None) -> None:
        """Print at once, under a rank's name, past all capturing and buffering."""
        name = self.rank if rank is None else rank
        lines = "".join(f"[rank {name}] {line}\n" for line in text.splitlines())
        os.write(self._stderr, lines.encode(errors="replace"))

    def abort(self) -> NoReturn:
        """End the whole launch, now. Also says what is known of ranks that cannot say it."""
        try:
            self.table.told.touch(exist_ok=False)
        except FileExistsError:
            time.sleep(_TELLING)  # another rank was first, and is about to say it
        else:
            for rank in self._control.alive:
                self.say(self.table.last_words(rank), rank)
        MPI.COMM_WORLD.Abort(1)
        raise SystemExit(1)

    def leave(self) -> None:
        """Tell the guard that this rank is about to end in order."""
        # MPICH's launcher may send it when another rank ends, and Python is about to let go of it.
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        if not self._terminated:
            self.table[self._row] = guard.Row()

    # In the thread

    def _escalation(self) -> list[Step]:
        if self._control.tolerant:
            return [
                (0.0, self._keep_stack),
                (0.2, self._control.unblock),
                (0.5, self._interrupt),
                (2.0, lambda: self._control.unblock(world=True)),
            ]
        return [(0.0, self._keep_stack), (0.0, self._say_stack), (2.0, self.abort)]

    def _watch(self) -> None:
        with self._changed:
            while True:
                self._changed.wait(self._pause())
                while self._steps and self._due() <= 0:
                    self._steps.pop(0)[1]()
                if self._steps and self.overrun is None:
                    self._look_around()

    def _pause(self) -> float | None:
        return min(max(self._due(), 0.0), _LOOK_AROUND) if self._steps else None

    def _due(self) -> float:
        return self.deadline + self._steps[0][0] - time.monotonic()

    def _look_around(self) -> None:
        """Make the rank leave its phase if another one has gone: the test cannot pass any more."""
        seconds = _MPI_TELLS if self._control.tolerant else 0.0
        gone = [rank for rank in self.table.gone(seconds) if rank in self._control.alive]
        if gone:
            self._steps.pop(0)
            self._keep_stack(f"interrupted, since rank {gone[0]} has gone")
            self.deadline = time.monotonic()
            self.kill_in(_KILL_AFTER)

    def _keep_stack(self, forced: str = "") -> None:
        reason = forced or f"did not finish within {self._seconds:g} s"
        self.overrun = Overrun(reason, stacks.main_thread(), bool(forced))
        self.notes.write(f"{reason}; it was here:\n{self.overrun.stack}")

    def _say_stack(self) -> None:
        if self.overrun:
            self.say(f"{self.overrun.reason}; it was here:\n{self.overrun.stack}")
            faulthandler.cancel_dump_traceback_later()
            self.notes.truncate(0)  # said

    def _interrupt(self) -> None:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        if self._armed and self.overrun:
            raise Interrupted(self.overrun.reason)

    def _on_termination(self, signum: int, frame: FrameType | None) -> None:
        """The launcher ends the run: Ctrl-C, or a rank has gone and it does not want to go on."""
        self._terminated = True
        raise KeyboardInterrupt("terminated by the launcher")
