"""Start one launch on several ranks, and read its cells as they are measured.

Benchmarks append their results to the run file that CELLS names, which stays on disk. Each cell is
read at once, so a launch that crashes loses nothing that was measured. The last line of the file is
the launch's `Layout`.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from bench.core.background_load import BackgroundLoad
from bench.core.cores import available
from bench.core.fingerprint import LAUNCHER
from bench.gate.cell_line import checked
from bench.gate.launches import Launch
from bench.gate.layout import Layout
from bench.gate.verdicts import Unusable
from bench.report.run_file import new_path
from strategies.records import RunFile

CELLS: Final = "LOCKSTEP_CELLS"
"""Environment variable: the file to which the measuring core appends a line per cell."""

TIMEOUT = 3600.0
"""Seconds without a new cell until a launch is ended. The cells of a race come together, and what
hangs is ended by the ranks' own deadlines: this is for a launcher that hangs itself."""

LOGS = Path(".lockstep", "launches")
"""Folder for the output of the launches, in the working directory."""


def start(
    ranks: int, command: Sequence[str], root: Path, label: str = "", number: int = 0
) -> Launch:
    """Run a Python command on that many ranks, and return the cells that it measured.

    Args:
        ranks: how many processes the launcher starts.
        command: arguments of Python, such as `["-m", "pytest", "bench"]`.
        root: the working directory of the ranks.
        label: a part of the log file's name.
        number: of the launch, which decides its `Layout`.

    Raises:
        Unusable: there is no launcher.
        OSError: the file of the cells, or the log, cannot be written.
    """
    path = new_path("-".join(filter(None, ("launch", label)))).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    cells: dict[str, dict[str, Any]] = {}
    failure = None
    layout = Layout.of_launch(number)
    try:
        for new in _follow(ranks, command, root, label, path, layout):
            if isinstance(new, str):
                failure = new
            else:
                cells[new["id"]] = new
    finally:
        RunFile(path, {}).append(layout)
    return Launch(cells, failure=failure, layout=layout)


def _follow(
    ranks: int, command: Sequence[str], root: Path, label: str, path: Path, layout: Layout
) -> Iterator[dict[str, Any] | str]:
    """Yield cells as they are measured, with the background load; last a failure, if any."""
    LOGS.mkdir(parents=True, exist_ok=True)
    name = "-".join(filter(None, (time.strftime("%Y%m%d-%H%M%S"), str(os.getpid()), label)))
    log = LOGS / f"{name}.log"
    launcher = _launcher()
    own = {CELLS: str(path), "LOCKSTEP_RANKS": str(ranks)}
    environment = os.environ | own | layout.environment
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
            last, partial, code = time.monotonic(), "", None
            while code is None:
                code = process.poll()  # before reading: the last cells come with the end
                while text := lines.readline():
                    partial += text
                    if not partial.endswith("\n"):
                        continue
                    try:
                        cell = _cell(partial)
                    except ValueError as error:
                        yield f"wrote a cell that cannot be judged ({error}), see {log}"
                        return
                    partial, last = "", time.monotonic()
                    if cell:
                        # Cells of one race come together; they know the load while they were raced.
                        yield {"background_load": round(load.lap(), 3)} | cell
                if time.monotonic() - last > TIMEOUT:
                    yield f"was ended after {TIMEOUT:.0f} s without a new cell, see {log}"
                    return
                if code is None:
                    time.sleep(0.05)
        finally:
            _stop(process)
    if code:
        yield f"ended with code {code}, see {log}"


def _launcher() -> list[str]:
    """Return the command that starts ranks; an empty variable counts as none."""
    given = os.environ.get(LAUNCHER) or "mpiexec"
    try:
        launcher = shlex.split(given)
    except ValueError as error:
        raise Unusable(f"{LAUNCHER} is {given!r}: {error}") from error
    if not launcher or shutil.which(launcher[0]) is None:
        raise Unusable(f"no {given}: install an MPI, or name its mpiexec in {LAUNCHER}")
    return launcher


def _cell(text: str) -> dict[str, Any] | None:
    """Return the cell of a line that a launch wrote; None if it is a record of another kind."""
    try:
        line = json.loads(text)
    except RecursionError:
        raise ValueError("expected an object, not one that is nested without end") from None
    if not isinstance(line, dict):
        raise ValueError(f"expected an object, not {text!r:.40}")
    # Older checkouts write no kind.
    if line.get("kind", "cell") != "cell":
        return None
    if not isinstance(checked(line).get("nodeid"), str):
        raise ValueError(f"{line['id']} names no test: nodeid is {line.get('nodeid')!r:.40}")
    return line


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End a launch that is still running: mpiexec passes SIGTERM on to its ranks."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
