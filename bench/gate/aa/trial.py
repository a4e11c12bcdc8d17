"""Collect the launches from which the gate's error rates are computed."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from bench.core.fingerprint import fingerprint
from bench.gate.launcher import start
from bench.gate.launches import Launch
from strategies.records import Record, RunFile, read

AMOUNTS = (0.10, 0.20)
"""By how much the copies are slower."""

DATA = Path(".lockstep", "aa.jsonl")

PROGRAM = "bench.gate.aa.slowed_copies"
"""The module that a launch runs."""

LIST_FILES = f"""
import sys
import mpi4py
mpi4py.rc.initialize = False  # this process starts ranks, so it must not become one
import {PROGRAM}
files = [getattr(module, "__file__", None) for module in sys.modules.values()]
print(*filter(None, files), sep="\\n")
"""

BUSY = "import time\nend = time.monotonic() + 900\nwhile time.monotonic() < end: pass"
"""A process that keeps a core busy; it ends by itself in case its parent is killed."""


@dataclass(frozen=True)
class TrialLaunch(Record, kind="trial launch"):
    """One launch of the trial.

    Attributes:
        code: digest of the program that was measured.
        machine: its fingerprint.
        loaded: whether another process kept a core busy.
        seconds: how long the launch took.
        cells: the line of each cell, as `Launch.cells` has it.
    """

    code: str
    machine: dict[str, Any]
    loaded: bool
    seconds: float
    cells: list[dict[str, Any]]

    def launch(self) -> Launch:
        return Launch({line["id"]: line for line in self.cells})


def measured_files() -> list[Path]:
    """List the files of this project that a launch imports, relative to the working directory."""
    command = [sys.executable, "-c", LIST_FILES]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    root = Path.cwd()
    paths = [Path(line) for line in done.stdout.splitlines()]
    inside = [path.relative_to(root) for path in paths if path.is_relative_to(root)]
    return sorted(path for path in inside if path.parts[0] in ("nn", "strategies", "bench"))


def code() -> str:
    """Return a digest of the files that are measured: only launches of equal code are compared."""
    digest = hashlib.sha256()
    for path in measured_files():
        digest.update(f"{path}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


@contextmanager
def busy_core(after: float) -> Iterator[None]:
    """Keep one core busy from `after` seconds on, by a process that is no descendant of ours."""
    # Its parent ends at once, because the load of our descendants would be counted as our own.
    # The busy process must not inherit the pipe: reading the answer would wait for its end.
    parent = "import subprocess as s, sys; print(s.Popen(sys.argv[1:], stdout=s.DEVNULL).pid)"
    command = [sys.executable, "-c", parent, sys.executable, "-c", BUSY]
    started: list[int] = []

    def begin() -> None:
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        started.append(int(done.stdout))

    timer = threading.Timer(after, begin)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        for process in started:
            os.kill(process, signal.SIGTERM)


def read_trial(path: Path) -> tuple[list[TrialLaunch], int]:
    """Return the launches in a data file, and how many of its lines are something else."""
    run = read(path)
    launches = [record for record in run.records if isinstance(record, TrialLaunch)]
    return launches, len(run.records) - len(launches) + len(run.damaged)


def collect_trial(path: Path, number: int, ranks: int, loaded: bool, console: Console) -> None:
    """Append that many launches; each is on the disk before the next one starts."""
    if number == 0:
        return
    machine, source = fingerprint(ranks, ["cpu"]), code()
    known = read_trial(path)[0] if path.exists() else []
    half = float(np.median([launch.seconds for launch in known])) / 2 if known else 0.0
    file = RunFile(path, {"program": "bench.gate.aa"})
    for count in range(number):
        turn = (len(known) + count) % len(AMOUNTS)
        amounts = [str(amount) for amount in (*AMOUNTS[turn:], *AMOUNTS[:turn])]
        command = ["-m", PROGRAM, *amounts]
        begun = time.monotonic()
        if loaded:
            with busy_core(half if count == 0 else 0.0):
                launch = start(ranks, command, Path.cwd(), number=len(known) + count)
        else:
            launch = start(ranks, command, Path.cwd(), number=len(known) + count)
        seconds = time.monotonic() - begun
        if launch.failure:
            raise SystemExit(f"a launch {launch.failure}")
        file.append(TrialLaunch(source, machine, loaded, seconds, list(launch.cells.values())))
        console.print(f"launch {count + 1} of {number}: {seconds:.0f} s", highlight=False)
