"""Separate mpiexec launches of the benchmark grid: the gate's samples.

The measuring core appends a line per cell to the file that CELLS names; lines are taken over as
they come, each with what neighbours used meanwhile, so nothing measured is lost with a launch.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from bench.core.background_load import BackgroundLoad, disturbed
from bench.core.cores import available
from bench.gate.statistics import MIN_LAUNCHES, Arms

CELLS: Final = "LOCKSTEP_CELLS"
"""Environment variable: where the measuring core appends one JSON line per measured cell."""

LAUNCHER: Final = "LOCKSTEP_MPIEXEC"
"""Environment variable: the mpiexec command line to start launches with, default `mpiexec`."""

PATIENCE = 600.0
"""Seconds without a new cell until a launch is given up; the ranks' own deadlines are shorter."""

LOGS = Path(".lockstep", "launches")
"""Where the output of the launches goes, in the working directory."""


@dataclass(frozen=True)
class Launch:
    """What one launch measured: cell id -> its line, with the `foreign` load while it ran."""

    cells: dict[str, dict[str, Any]]
    asked: frozenset[str] | None = None
    """The cells that were asked for; None is the whole grid."""
    failure: str | None = None
    """Why the launch did not end well, if so."""

    def disturbed(self) -> list[str]:
        """Cells that neighbours took processor time from."""
        return [
            cell
            for cell, line in self.cells.items()
            if disturbed(line.get("foreign", 0.0), line["workers"])
        ]


def arms(line: dict[str, Any]) -> Arms:
    """Sequential and parallel seconds *per step*: launches may differ in the steps of a round."""
    steps, rounds = line["steps_per_round"], line["rounds"]
    return [t / steps for t in rounds["sequential"]], [t / steps for t in rounds["parallel"]]


def side(launches: Sequence[Launch]) -> dict[str, list[Arms]]:
    """Every measured cell with its undisturbed launches, for `gate.judge`."""
    return {
        cell: [
            arms(launch.cells[cell])
            for launch in launches
            if cell in launch.cells and cell not in launch.disturbed()
        ]
        for cell in every_cell(launches)
    }


def lost(launches: Sequence[Launch]) -> set[str]:
    """Cells that some launch was asked for and did not measure (failed, crashed, check not met)."""
    return {
        cell
        for launch in launches
        for cell in (every_cell(launches) if launch.asked is None else launch.asked)
        if cell not in launch.cells
    }


def every_cell(launches: Sequence[Launch]) -> list[str]:
    """All cells measured by any launch, in their order."""
    return list(dict.fromkeys(cell for launch in launches for cell in launch.cells))


def oversubscribed(launches: Sequence[Launch]) -> set[str]:
    """Cells with more ranks than cores."""
    return {c for launch in launches for c, line in launch.cells.items() if line["oversubscribed"]}


@dataclass
class Grid:
    """The benchmark grid of one checkout: what to launch, and where."""

    ranks: int
    arguments: Sequence[str] = ()
    """Of pytest: options, and paths or node ids where only a part of the grid is meant."""
    root: Path = field(default_factory=Path.cwd)
    label: str = ""
    console: Console = field(default_factory=lambda: Console(stderr=True))
    nodes: dict[str, str] = field(default_factory=dict)
    """Cell id -> pytest node id, learnt from the cells seen so far."""

    def launch(self, only: Collection[str] | None = None) -> Launch:
        """One launch of the grid, or of those cells; keeps every cell, however the launch ends."""
        nodes = [self.nodes[cell] for cell in only or () if cell in self.nodes]
        if only is not None and len(nodes) < len(only):
            nodes, only = [], None  # cells of unknown test: the whole grid then
        named = [a for a in self.arguments if Path(self.root, a.partition("::")[0]).exists()]
        options = [argument for argument in self.arguments if argument not in named]
        command = ["-m", "pytest", *(nodes or named or ["bench"]), "--cells", *options]
        launch = start(self.ranks, command, self.root, self.label)
        self.nodes |= {cell: line["nodeid"] for cell, line in launch.cells.items()}
        if only is None:
            return launch
        cells = {cell: line for cell, line in launch.cells.items() if cell in only}
        return replace(launch, cells=cells, asked=frozenset(only))


def start(ranks: int, command: Sequence[str], root: Path, label: str = "") -> Launch:
    """Run a Python command on that many ranks, and take the cells that it appends to CELLS."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "cells.jsonl")
        path.touch()
        cells: dict[str, dict[str, Any]] = {}
        failure = None
        for new in _follow(ranks, command, root, label, path):
            if isinstance(new, str):
                failure = new
            else:
                cells[new["id"]] = new
    return Launch(cells, failure=failure)


def _follow(
    ranks: int, command: Sequence[str], root: Path, label: str, path: Path
) -> Iterator[dict[str, Any] | str]:
    """Cells as they are measured, with the foreign load; then why it failed, if it did."""
    LOGS.mkdir(parents=True, exist_ok=True)
    name = "-".join(filter(None, (time.strftime("%Y%m%d-%H%M%S"), str(os.getpid()), label)))
    log = LOGS / f"{name}.log"
    launcher = shlex.split(os.environ.get(LAUNCHER, "mpiexec"))
    if shutil.which(launcher[0]) is None:
        raise SystemExit(f"no {launcher[0]}: install an MPI, or name its mpiexec in {LAUNCHER}")
    environment = os.environ | {CELLS: str(path), "LOCKSTEP_RANKS": str(ranks)}
    if ranks > available():
        environment["OMPI_MCA_mpi_yield_when_idle"] = "1"
    load = BackgroundLoad()
    with log.open("wb") as output, path.open(encoding="utf-8") as lines:
        process = subprocess.Popen(
            [*launcher, "-n", str(ranks), sys.executable, *command],
            cwd=root,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            heard, partial, code = time.monotonic(), "", None
            while code is None:
                code = process.poll()  # before reading: the last cells come with the end
                while text := lines.readline():
                    partial += text
                    if partial.endswith("\n"):
                        yield json.loads(partial) | {"foreign": round(load.lap(), 3)}
                        partial, heard = "", time.monotonic()
                if time.monotonic() - heard > PATIENCE:
                    yield f"no new cell for {PATIENCE:.0f} s: given up, see {log}"
                    return
                if code is None:
                    time.sleep(0.05)
        finally:
            stop(process)
    if code:
        yield f"ended with code {code}, see {log}"


def collect(
    grids: Sequence[Grid],
    launches: int,
    only: Collection[str] | None = None,
    keep: Callable[[Grid, Launch], None] = lambda grid, launch: None,
) -> list[list[Launch]]:
    """Launch every grid that often, and up to as often again for cells that neighbours disturbed.

    Grids take turns and change the order from one turn to the next (A B, B A, A B), so that a slow
    drift of the machine meets them alike. `keep` is called with each launch as soon as it is there.
    """
    done: list[list[Launch]] = [[] for _ in grids]
    wanted = only
    for turn in range(2 * launches):
        if turn >= launches:
            few = [c for own in done for c, usable in side(own).items() if len(usable) < launches]
            wanted = list(dict.fromkeys(few))
            if not wanted:
                break
        order = list(zip(grids, done, strict=True))
        for grid, own in order if turn % 2 == 0 else reversed(order):
            again = " again, for disturbed cells" if turn >= launches else f" of {launches}"
            own.append(_announced(grid, f"launch {turn + 1}{again}", wanted))
            keep(grid, own[-1])
    return done


def _announced(grid: Grid, name: str, only: Collection[str] | None) -> Launch:
    start = time.monotonic()
    name = f"{grid.label} {name}".strip()
    with grid.console.status(f"{name} ..."):
        launch = grid.launch(only)
    note = f"{name}: {len(launch.cells)} cells in {time.monotonic() - start:.0f} s"
    if taken := launch.disturbed():
        worst = max(launch.cells[cell]["foreign"] for cell in taken)
        note += f", {len(taken)} disturbed by neighbours (up to {worst:.1f} cores)"
    if launch.failure:
        note += f", {launch.failure}"
    grid.console.print(note, highlight=False, soft_wrap=True)
    return launch


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a launch that is still running: mpiexec hands SIGTERM on to its ranks."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def interruptible() -> None:
    """Turn SIGTERM into an orderly end, so that launches and worktrees are not left behind."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def launch_count(text: str) -> int:
    """An argument of at least the launches that the gate needs."""
    if not text.isdecimal() or int(text) < MIN_LAUNCHES:
        raise argparse.ArgumentTypeError(
            f"expected at least {MIN_LAUNCHES} launches (they are the samples), not {text}"
        )
    return int(text)


def rank_count(text: str) -> int:
    """An argument of at least one rank."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1 rank, not {text}")
    return int(text)
