"""Starts a planted suite under mpiexec, as a user would, and keeps what came of it."""

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
# Far beyond every bound that is tested: a launch that gets there hangs.
_HANGS = 90.0
# A guard may speak last, after the launcher has ended.
_GUARD_ENDS = 5.0
# What the MPI of this very process has put into the environment.
_OWN = ("PMIX_", "PMI_", "OMPI_COMM_WORLD", "OMPI_MCA_ess", "OMPI_UNIVERSE", "LOCKSTEP_RANKS")


@dataclass(frozen=True)
class Launch:
    """One finished launch, with its guards. Times are seconds since the epoch."""

    code: int
    output: str
    ended: float
    log: list[dict[str, Any]]

    def fault(self) -> float:
        """When the (first) planted fault happened."""
        return next(entry["time"] for entry in self.log if "fault" in entry)

    def reports(self, test: str) -> list[dict[str, Any]]:
        """What rank 0 reported of a test, phase by phase; brackets are ignored."""
        return [e for e in self.log if "test" in e and e["test"].split("[")[0] == test]

    def failure(self, test: str) -> dict[str, Any]:
        """The report of the failure of ``test``, with ``seconds`` from fault to report."""
        failures = [e for e in self.reports(test) if e["outcome"] == "failed"]
        assert len(failures) == 1, self.output
        faults = [e for e in self.log if e.get("fault", "").split("[")[0] == test]
        return {**failures[0], "seconds": failures[0]["time"] - faults[0]["time"]}

    def passed(self, test: str) -> bool:
        """Whether every phase of every variant of ``test`` ran and passed."""
        reports = self.reports(test)
        calls = [e for e in reports if e["when"] == "call"]
        return bool(calls) and all(e["outcome"] == "passed" for e in reports)


def mpiexec() -> str:
    """The launcher that was installed with this interpreter, else the one on the path."""
    beside = Path(sys.executable).with_name("mpiexec")
    found = str(beside) if beside.exists() else shutil.which("mpiexec")
    assert found, "these tests need mpiexec"
    return found


def _wait_for_guards(folder: Path) -> None:
    """Guards remove their tables when they end."""
    end = time.monotonic() + _GUARD_ENDS
    while tables := list(folder.glob("ranks-*")):
        assert time.monotonic() < end, f"the guard of {tables[0]} has not ended"
        time.sleep(0.02)


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
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(_OWN)}
    planted = {"PLANTED_LOG": str(log), "PLANTED_VICTIM": str(victim), "PYTHONPATH": str(ROOT)}
    planted["TMPDIR"] = str(folder)
    start = [mpiexec(), *ULFM] if launcher is None else list(launcher)
    count = ["-n", str(ranks)] if start else []
    command = [*start, *count, python, "-m", "pytest", "-p", "tests.ranks.plugin"]
    command += ["-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", str(PLANTED)]
    command += ["--deadline", str(deadline), "-v", *arguments, str(PLANTED / f"{suite}.py")]
    with (folder / "output").open("w+") as output:
        # To a file: a pipe would stay open as long as anything in the launch lives.
        done = subprocess.run(
            command,
            env={**inherited, **planted, **(environment or {})},
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
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    return Launch(done.returncode, text.replace("\0", ""), ended, entries)
