"""Damage costs a run file the lines that it hits, and changes no others."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mpi4py
import pytest

mpi4py.rc.initialize = False  # not in the process that reads damaged files

from strategies import records  # noqa: E402
from strategies.records import Record, Run, RunFile  # noqa: E402
from tests.support import fuzz  # noqa: E402
from tests.support.fuzz import Target  # noqa: E402

pytestmark = pytest.mark.workers(1)


@dataclass(frozen=True)
class Fuzzed(Record, kind="test-fuzzed"):
    number: int
    size: float
    pair: tuple[int, float]
    times: dict[str, list[float]] = field(default_factory=dict)
    said: str = ""


def write(folder: Path) -> list[Path]:
    file = RunFile(folder / "run.jsonl", {"machine": "desk"})
    for number in range(6):
        file.append(Fuzzed(number, 1 / (number + 1), (number, 0.5), {"a": [0.5, 1e9]}, "ä"))
        file.append({"kind": "other", "values": [number, [{"deep": None}]]})
    return [file.path]


def in_place(folder: Path) -> list[dict[str, Any]]:
    """What stands on the lines that are JSON."""
    found = []
    for line in (folder / "run.jsonl").read_bytes().split(b"\n")[:-1]:
        try:
            found.append(json.loads(line))
        except (ValueError, RecursionError):
            continue
    return [line for line in found if isinstance(line, dict)]


def right(run: Run, _: Run, folder: Path) -> bool:
    """Each record says what its line says, and every line is a record, the header, or damaged."""
    contents = (folder / "run.jsonl").read_bytes()
    lines = contents.count(b"\n") + (not contents.endswith(b"\n") and contents != b"")
    said = in_place(folder)
    return len(run.records) + len(run.damaged) + bool(run.header) == lines and all(
        any(line.items() <= record.as_dict().items() for line in said) for record in run.records
    )


TARGETS = {
    "records": Target(write, lambda folder: records.read(folder / "run.jsonl"), (OSError,), right)
}


@pytest.mark.deadline(3600)  # for the number of cases that a user asks for; usually seconds
def test_damaged_run_files() -> None:
    fuzz.check(__name__, "records", fuzz.CASES)
