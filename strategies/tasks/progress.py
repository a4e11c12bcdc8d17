"""One line that says how far a run is."""

import sys
from time import monotonic
from typing import TextIO

EVERY = 0.2
"""Seconds between two changes of the line in a terminal."""

SELDOM = 30.0
"""Seconds between two lines in a file, and before the first."""


class Progress:
    """Says on stderr how many tasks have ended: in place in a terminal, seldom in a file."""

    def __init__(self, shown: bool, stream: TextIO | None = None):
        self._stream = (stream or sys.stderr) if shown else None
        self._is_terminal = bool(self._stream and self._stream.isatty())
        self._began = monotonic()
        self._said = self._began - EVERY if self._is_terminal else self._began
        self._width = 0

    def show(self, ended: int, of: int, failed: int, taken_up: int, is_last: bool = False) -> None:
        """Say how many tasks of how many have ended, with an estimate of the time that is left."""
        now = monotonic()
        is_due = now - self._said >= (EVERY if self._is_terminal else SELDOM)
        if self._stream is None or not (is_due or (is_last and (self._is_terminal or self._width))):
            return
        line, run = f"{ended} of {of} tasks", ended - taken_up
        if taken_up:
            line += f", {taken_up} from the journal"
        if failed:
            line += f", {failed} failed"
        passed = now - self._began
        line += f", {passed:.0f} s"
        if run and ended < of:
            line += f", about {passed / run * (of - ended):.0f} s left"
        if self._is_terminal:
            end = "\n" if is_last else ""
            self._stream.write(f"\r{line:<{self._width}}{end}")  # over what is left of a longer one
        else:
            self._stream.write(f"{line}\n")
        self._stream.flush()
        self._said, self._width = now, len(line)
