"""Start a planted suite under mpiexec, as a user would, and collect what it reports."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PLANTED = Path(__file__).parent / "planted"
ULFM = ("--with-ft", "ulfm")
# Seconds, far beyond every bound that is tested: a launch that takes longer hangs.
_HANGS = 90.0
# Seconds: a guard may print after the launcher has ended.
_GUARD_ENDS = 5.0
# What the MPI and the xdist of this process have put into the environment, and what a new launch
# sets itself.
_OWN = ("PMIX_", "PMI_", "OMPI_COMM_WORLD", "OMPI_MCA_ess", "OMPI_UNIVERSE", "PYTEST_XDIST_")
_SET = ("LOCKSTEP_RANKS", "PYTHONPATH")


@dataclass(frozen=True)
class Launch:
    """A finished launch whose guards have ended too. Times are seconds since the epoch."""

    code: int
    output: str
    ended: float
    log: list[dict[str, Any]]

    def fault(self) -> float:
        """Return the time of the first planted fault."""
        return next(entry["time"] for entry in self.log if "fault" in entry)

    def reports(self, test: str) -> list[dict[str, Any]]:
        """Return rank 0's reports of a test, one per phase, for all its parameters."""
        return [e for e in self.log if "test" in e and e["test"].split("[")[0] == test]

    def failure(self, test: str) -> dict[str, Any]:
        """Return the report that ``test`` failed, with the ``seconds`` from the fault to it."""
        failures = [e for e in self.reports(test) if e["outcome"] == "failed"]
        assert len(failures) == 1, self.output
        faults = [e for e in self.log if e.get("fault", "").split("[")[0] == test]
        return {**failures[0], "seconds": failures[0]["time"] - faults[0]["time"]}

    def passed(self, test: str) -> bool:
        """Return whether every phase of ``test`` ran and passed, for all its parameters."""
        reports = self.reports(test)
        calls = [e for e in reports if e["when"] == "call"]
        return bool(calls) and all(e["outcome"] == "passed" for e in reports)


def mpiexec() -> str:
    """Return the launcher that was installed with this interpreter, else the one on the path."""
    beside = Path(sys.executable).with_name("mpiexec")
    found = str(beside) if beside.exists() else shutil.which("mpiexec")
    assert found, "these tests need mpiexec"
    return found


def _wait_for_guards(folder: Path) -> None:
    """Wait until no guard has a table left in ``folder``."""
    end = time.monotonic() + _GUARD_ENDS
    while tables := list(folder.glob("ranks-*")):
        assert time.monotonic() < end, f"the guard of {tables[0]} has not ended"
        time.sleep(0.02)


def run(
    command: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None
) -> tuple[int, str, float]:
    """Run a command that launches ranks; return exit code, output, and the time when it ended.

    The command runs in ``folder``, with the environment of this process as it was before MPI.
    """
    inherited = {k: v for k, v in os.environ.items() if not k.startswith((*_OWN, *_SET))}
    with (folder / "output").open("w+") as output:
        # To a file: a pipe would stay open as long as anything in the launch lives.
        done = subprocess.run(
            command,
            # Without a terminal pytest cuts lines at 80 characters, and messages with them.
            env={**inherited, "COLUMNS": "160", "TMPDIR": str(folder), **(environment or {})},
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            timeout=_HANGS,
        )
        _wait_for_guards(folder)
        ended = time.time()
        output.seek(0)
        text = output.read()
    return done.returncode, text.replace("\0", ""), ended


def launch(
    suite: str,
    folder: Path,
    ranks: int,
    *,
    victim: int = -1,
    deadline: float = 1.0,
    launcher: Sequence[str] | None = None,
    python: str = sys.executable,
    environment: Mapping[str, str] | None = None,
    arguments: Sequence[str] = (),
) -> Launch:
    """Run ``planted/<suite>.py``; ``victim`` is the rank in COMM_WORLD that goes wrong."""
    log = folder / "log.jsonl"
    log.unlink(missing_ok=True)
    log.touch()
    planted = {"PLANTED_LOG": str(log), "PLANTED_VICTIM": str(victim), "PYTHONPATH": str(ROOT)}
    start = [mpiexec(), *ULFM] if launcher is None else list(launcher)
    count = ["-n", str(ranks)] if start else []
    command = [*start, *count, python, "-m", "pytest", "-p", "tests.ranks.plugin"]
    command += ["-p", "no:cacheprovider", "-p", "no:xdist", "-c", os.devnull]
    command += ["--rootdir", str(PLANTED)]
    command += ["--deadline", str(deadline), "-v", *arguments, str(PLANTED / f"{suite}.py")]
    code, output, ended = run(command, folder, {**planted, **(environment or {})})
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    return Launch(code, output, ended, entries)
