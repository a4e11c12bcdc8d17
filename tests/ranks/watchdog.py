"""The deadline of a phase, and what follows when a rank overruns it.

========= ==========================================================================================
deadline  the stack of this rank is kept, every communicator of the test is revoked on all ranks
+ 0.5 s   DeadlineExceeded is raised in the main thread, which ends Python loops and sleeps
+ 1.5 s   stacks once more, written from C, for a rank whose C code holds the interpreter
+ 2 s     COMM_WORLD is revoked too: later tests that use it directly will fail
+ 4 s     the guard kills this rank; the others go on without it
========= ==========================================================================================

Without fault tolerance there is nothing to go on with: the stacks are printed, and the launch is
aborted one second later, so that the other ranks can print theirs.
"""

import faulthandler
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from tests.ranks import guard
from tests.ranks.control import Control, allgather
from tests.ranks.mpi import MPI

KILL_AFTER = 4.0


class DeadlineExceeded(BaseException):
    """Raised in the main thread of a rank that overran its deadline. Not to be swallowed."""


class Watchdog:
    """Watches the main thread of this rank, phase by phase, from a thread of its own."""

    def __init__(self, control: Control) -> None:
        self.rank = control.rank
        self.stack: str | None = None  # where this rank was when its deadline passed
        self._control = control
        self._what = ""
        self._armed = False
        self._start = 0.0  # time.monotonic() of the deadline
        self._steps: list[tuple[float, Callable[[], object]]] = []
        self._changed = threading.Condition()
        self._join_node()
        self._notes = self.table.notes(self.rank).open("a", buffering=1)
        # Two duplicates of the real stderr: capturing puts a file in the place of fd 2.
        self._stderr = os.dup(2)
        signal.signal(signal.SIGUSR1, self._interrupted)
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def _join_node(self) -> None:
        """Open the table of this node; its first rank starts the guard."""
        node = MPI.COMM_WORLD.Split_type(MPI.COMM_TYPE_SHARED)
        self._row = node.rank
        folder = allgather(node, guard.Table.create(node.size) if node.rank == 0 else None)[0]
        self.table = guard.Table(folder, node.size)
        self.table.write(self._row, self.rank, 0.0)
        node.Barrier()
        if node.rank == 0:
            # A session of its own, so that Ctrl-C does not reach it; no pipe of mpiexec's, which
            # would wait for it.
            subprocess.Popen(
                [sys.executable, "-S", "-E", guard.__file__, folder, str(node.size)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        node.Free()

    @contextmanager
    def phase(self, seconds: float, what: str) -> Iterator[None]:
        """Give the block ``seconds``; ``what`` says in the reports what it is."""
        self.arm(seconds, what)
        try:
            yield
        finally:
            self.disarm()

    def arm(self, seconds: float, what: str) -> None:
        with self._changed:
            self._what, self.stack = what, None
            self._start = time.monotonic() + seconds
            self._steps = self._escalation()
            self._armed = True
            self.table.write(self._row, self.rank, self._start + KILL_AFTER)
            self._changed.notify()
        faulthandler.dump_traceback_later(seconds + 1.5, exit=False, file=self._notes)

    def disarm(self) -> None:
        # First of all, so that a signal under way no longer raises.
        self._armed = False
        faulthandler.cancel_dump_traceback_later()
        with self._changed:
            self._steps = []
            self.table.write(self._row, self.rank, 0.0)

    def _escalation(self) -> list[tuple[float, Callable[[], object]]]:
        if self._control.tolerant:
            return [
                (0.0, self._keep_stack),
                (0.0, self._control.unblock),
                (0.5, self._interrupt),
                (2.0, lambda: self._control.unblock(world=True)),
            ]
        return [(0.0, self._keep_stack), (0.0, self._print_stack), (1.0, self.abort)]

    def _watch(self) -> None:
        with self._changed:
            while True:
                if not self._steps:
                    self._changed.wait()
                    continue
                after, action = self._steps[0]
                remaining = self._start + after - time.monotonic()
                if remaining > 0:
                    self._changed.wait(remaining)
                else:
                    self._steps.pop(0)
                    action()

    def _keep_stack(self) -> None:
        frame = sys._current_frames()[threading.main_thread().ident or 0]
        self.stack = f"{self._what}: deadline passed. The stack at that moment:\n" + "".join(
            traceback.format_stack(frame)
        )
        self._notes.write(self.stack)

    def _print_stack(self) -> None:
        self.say(self.stack or "")

    def _interrupt(self) -> None:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    def _interrupted(self, signum: int, frame: FrameType | None) -> None:
        if self._armed and self.stack:
            raise DeadlineExceeded(f"{self._what} overran its deadline")

    def say(self, text: str) -> None:
        """Print at once, under this rank's name, past all capturing and buffering."""
        lines = "".join(f"[rank {self.rank}] {line}\n" for line in text.splitlines())
        os.write(self._stderr, lines.encode(errors="replace"))

    def abort(self) -> NoReturn:
        """End the whole launch, now."""
        MPI.COMM_WORLD.Abort(1)
        raise SystemExit(1)
