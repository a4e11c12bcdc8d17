"""Save several launches as a baseline, in pytest-benchmark's storage folder, and load it again.

    python -m bench.gate.baselines -n 2 --launches 3 --save NAME [pytest arguments, e.g. --quick]

A baseline is a file that `pytest-benchmark compare` reads, with one more top-level key, "lockstep":
the fingerprint of the machine, pytest's arguments, and each launch's cells with all round times.
Everything else in the file is derived from these.

Exit codes: 0 saved; 1 a launch failed (what was measured is saved all the same); 2 wrong usage;
4 the machine was too busy for some cells to get three undisturbed launches.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

from pytest_benchmark.plugin import pytest_benchmark_generate_machine_info
from pytest_benchmark.stats import Stats
from pytest_benchmark.utils import get_commit_info, get_machine_id

from bench.core.cores import available
from bench.core.fingerprint import fingerprint
from bench.gate.collect import Grid, collect
from bench.gate.command_line import launch_count, make_interruptible, rank_count
from bench.gate.launches import Launch, devices, every_cell, undisturbed_launches
from bench.gate.statistics import MIN_LAUNCHES
from bench.gate.verdicts import Exit, Unusable
from nn.atomic_write import atomic_write

STORAGE = Path(".benchmarks")
FORMAT = 1


class BaselineError(Unusable):
    """A baseline cannot be used; the message says why, and what to do."""


@dataclass(frozen=True)
class Baseline:
    """The launches that were saved under a name.

    Attributes:
        path: the file.
        saved: when.
        fingerprint: of the machine and its libraries.
        arguments: for pytest, with which the grid was launched.
    """

    path: Path
    saved: datetime
    fingerprint: dict[str, Any]
    arguments: list[str]
    launches: list[Launch]


def name_of(text: str) -> str:
    """Read an argument that is the name of a baseline."""
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", text):
        raise argparse.ArgumentTypeError(
            f"a baseline's name is letters, digits, '_', '-' and '.', not {text!r}"
        )
    return text


def reserve(storage: Path, name: str) -> Path:
    """Return the next free `NNNN_name.json` of this machine's folder; write no file yet."""
    folder = storage / get_machine_id()
    folder.mkdir(parents=True, exist_ok=True)
    numbers = [int(path.name[:4]) for path in folder.glob("[0-9][0-9][0-9][0-9]_*.json")]
    return folder / f"{max(numbers, default=0) + 1:04}_{name}.json"


def write(
    path: Path,
    launches: Sequence[Launch],
    machine: Mapping[str, Any],
    arguments: Sequence[str],
) -> None:
    """Write a baseline of all launches, or leave the file as it was."""
    content = {
        "machine_info": _machine_info(),
        "commit_info": get_commit_info(),
        "benchmarks": [_benchmark(launches, cell) for cell in every_cell(launches)],
        "datetime": datetime.now(UTC).isoformat(),
        "version": metadata.version("pytest-benchmark"),
        "lockstep": {
            "format": FORMAT,
            "fingerprint": dict(machine),
            "arguments": list(arguments),
            "launches": [{"cells": list(launch.cells.values())} for launch in launches],
        },
    }
    with atomic_write(path, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=1, allow_nan=False)


@cache
def _machine_info() -> dict[str, Any]:
    return pytest_benchmark_generate_machine_info()


def load(storage: Path, name: str) -> Baseline:
    """Load the baseline file `name`, or else the newest baseline of that name.

    Baselines of this machine come first; of other machines the newest counts.

    Raises:
        BaselineError: there is none, or it is damaged.
    """
    given = Path(name)
    if given.is_file():
        return read(given)
    pattern = f"[0-9][0-9][0-9][0-9]_{name}.json"
    if own := sorted(Path(storage, get_machine_id()).glob(pattern)):
        return read(own[-1])
    found = [read(path) for path in storage.glob(f"*/{pattern}")]
    if not found:
        saved = sorted({path.stem[5:] for path in storage.glob("*/[0-9][0-9][0-9][0-9]_*.json")})
        raise BaselineError(
            f"no baseline {name!r} in {storage} (saved there: {', '.join(saved) or 'none'}); "
            f"save one with: nox -s bench_mpi -- --save {name}"
        )
    return max(found, key=lambda baseline: baseline.saved)


def read(path: Path) -> Baseline:
    """Read and check a baseline file.

    Raises:
        BaselineError: it cannot be read, is damaged, or holds no cell.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise BaselineError(f"{path} is damaged: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("lockstep"), dict):
        raise BaselineError(
            f"{path} is no baseline: it has no launches (pytest-benchmark's own --benchmark-save "
            "writes such files); save one with: nox -s bench_mpi -- --save NAME"
        )
    saved = content["lockstep"]
    if saved.get("format") != FORMAT:
        raise BaselineError(
            f"{path} has format {saved.get('format')}, this version reads {FORMAT}: save it anew"
        )
    try:
        launches = [
            Launch({line["id"]: _checked(line) for line in launch["cells"]})
            for launch in saved["launches"]
        ]
        when = datetime.fromisoformat(content["datetime"]).astimezone(UTC)
        machine, arguments = dict(saved["fingerprint"]), list(saved["arguments"])
        baseline = Baseline(path, when, machine, arguments, launches)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BaselineError(f"{path} is damaged: {error!r} in its launches") from error
    if not any(launch.cells for launch in launches):
        raise BaselineError(f"{path} is empty: no launch measured a cell")
    return baseline


def _checked(line: dict[str, Any]) -> dict[str, Any]:
    """Return a cell's line if the gate can use it; raise ValueError or KeyError otherwise."""
    if not isinstance(line["id"], str) or not isinstance(line["oversubscribed"], bool):
        raise ValueError(f"id and oversubscribed flag of {line['id']!r}")
    if not all(
        isinstance(line[key], int) and line[key] > 0 for key in ("workers", "steps_per_round")
    ):
        raise ValueError(f"workers and steps per round of {line['id']}")
    rounds = [line["rounds"][arm] for arm in ("sequential", "parallel")]
    if not rounds[0] or len(rounds[0]) != len(rounds[1]):
        raise ValueError(f"unpaired rounds of {line['id']}")
    if not all(
        isinstance(t, int | float) and math.isfinite(t) and t > 0 for r in rounds for t in r
    ):
        raise ValueError(f"round times of {line['id']}")
    return line


def _benchmark(launches: Sequence[Launch], cell: str) -> dict[str, Any]:
    """Return a cell as pytest-benchmark stores it: all parallel rounds, medians over launches."""
    lines = [launch.cells[cell] for launch in launches if cell in launch.cells]
    stats = Stats()
    for line in lines:
        for seconds in line["rounds"]["parallel"]:
            stats.update(seconds)
    measured = {
        key: median(line[key] for line in lines)
        for key, value in lines[0].items()
        if isinstance(value, float)
    }
    return {
        "group": lines[0]["strategy"],
        "name": cell,
        "fullname": lines[0].get("nodeid", cell),
        "params": None,
        "param": None,
        "extra_info": lines[0] | measured | {"rounds": [line["rounds"] for line in lines]},
        "options": {},
        "stats": stats.as_dict() | {"data": stats.data, "iterations": 1},
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench.gate.baselines", allow_abbrev=False)
    parser.add_argument("-n", dest="ranks", type=rank_count, default=available())
    parser.add_argument("--launches", type=launch_count, default=MIN_LAUNCHES)
    parser.add_argument("--save", metavar="NAME", type=name_of, required=True)
    parser.add_argument("--storage", type=Path, default=STORAGE)
    known, rest = parser.parse_known_args(argv)

    grid = Grid(known.ranks, rest)
    path = reserve(known.storage, known.save)
    done: list[Launch] = []

    def keep(_: Grid, launch: Launch) -> None:
        done.append(launch)
        write(path, done, fingerprint(known.ranks, devices(done)), rest)

    collect([grid], known.launches, keep=keep)
    usable = undisturbed_launches(done)
    few = [cell for cell, launches in usable.items() if len(launches) < MIN_LAUNCHES]
    said = f"saved {len(usable)} cells of {len(done)} launches in {path}"
    grid.console.print(said, highlight=False, soft_wrap=True)
    if not usable or any(launch.failure for launch in done):
        grid.console.print("[red]a launch failed: the baseline holds what was measured")
        return Exit.FAILED
    if few:
        grid.console.print(
            f"[yellow]the machine was too busy, so these cells have fewer than {MIN_LAUNCHES} "
            f"undisturbed launches: {', '.join(few)}"
        )
        return Exit.INCONCLUSIVE
    return Exit.HELD


if __name__ == "__main__":
    make_interruptible()
    sys.exit(main())
