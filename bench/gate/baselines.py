"""Save several launches as a baseline, in pytest-benchmark's storage folder, and load it again.

    python -m bench.gate.baselines -n 2 --launches 3 --save NAME [pytest arguments, e.g. --quick]

A baseline is a file that `pytest-benchmark compare` reads, with one more top-level key, "lockstep":
the fingerprint of the machine, pytest's arguments, and each launch's layout and its cells with all
round times.
Everything else in the file is derived from these.

Exit codes: 0 saved; 1 a launch failed (what was measured is saved all the same); 2 wrong usage, no
launcher, or a storage folder that cannot be written; 4 the machine was too busy for some cells to
get three undisturbed launches.
"""

from __future__ import annotations

import argparse
import json
import os
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
from pytest_benchmark.utils import get_commit_info
from rich.console import Console

from bench.core.cores import available
from bench.core.fingerprint import fingerprint
from bench.gate.cell_line import checked, is_count, is_text
from bench.gate.collect import Grid, collect
from bench.gate.command_line import (
    check_replaceable,
    failing_in_a_sentence,
    launch_count,
    make_interruptible,
    rank_count,
)
from bench.gate.launches import Launch, devices, every_cell, undisturbed_launches
from bench.gate.statistics import MIN_LAUNCHES
from bench.gate.storage import STORAGE, name_of, next_file, of_this_machine, saved_files
from bench.gate.verdicts import Exit, Unusable
from nn.atomic_write import atomic_write
from nn.regular_file import open_regular

FORMAT = 2
"""1: each cell took turns with plain training alone; 2: with all cells of its race."""


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
        commit: the commit that was measured; None if it is not known.
        uncommitted: whether files differed from that commit.
    """

    path: Path
    saved: datetime
    fingerprint: dict[str, Any]
    arguments: list[str]
    launches: list[Launch]
    commit: str | None = None
    uncommitted: bool = False


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
            "launches": [_saved(launch) for launch in launches],
        },
    }
    with atomic_write(path, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=1, allow_nan=False)


def _saved(launch: Launch) -> dict[str, Any]:
    layout = {} if launch.layout is None else {"layout": launch.layout.as_dict()}
    return layout | {"cells": list(launch.cells.values())}


@cache
def _machine_info() -> dict[str, Any]:
    return pytest_benchmark_generate_machine_info()


def load(storage: Path, name: str) -> Baseline:
    """Load the baseline file `name`, or else the newest baseline of that name.

    Baselines of this machine come first; of other machines the newest counts.

    Raises:
        BaselineError: there is none, or it is damaged.
    """
    if os.path.isfile(name):  # noqa: PTH113 - pathlib raises if a name is too long
        return read(Path(name))
    files = saved_files(storage)
    named = [file for file in files if file.name == name]
    if own := of_this_machine(named):
        return read(own[-1].path)
    found = [read(file.path) for file in named]
    if not found:
        names = ", ".join(sorted({file.name for file in files}))
        raise BaselineError(
            f"no baseline {name!r} in {storage} (saved there: {names or 'none'}); "
            "save one with: nox -s bench_mpi -- --save NAME"
        )
    return max(found, key=lambda baseline: baseline.saved)


def read(path: Path) -> Baseline:
    """Read and check a baseline file.

    Raises:
        BaselineError: it cannot be read, is damaged, or holds no cell.
    """
    try:
        with open_regular(path) as file:
            content = json.loads(file.read().decode())
    except (OSError, ValueError, RecursionError) as error:
        raise BaselineError(f"{path} is damaged: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("lockstep"), dict):
        raise BaselineError(
            f"{path} is no baseline: it has no launches (pytest-benchmark's own --benchmark-save "
            "writes such files); save one with: nox -s bench_mpi -- --save NAME"
        )
    saved = content["lockstep"]
    version = saved.get("format")
    if version != FORMAT:
        other = version if is_count(version) else "no number"
        raise BaselineError(
            f"{path} has format {other}, this version reads {FORMAT}: cells now take turns with "
            "all cells of their race, which may change their figures. Save the baseline anew"
        )
    try:
        launches = [_launch(launch["cells"]) for launch in saved["launches"]]
        when = datetime.fromisoformat(content["datetime"]).astimezone(UTC)
        machine, arguments = _machine(saved["fingerprint"]), _arguments(saved["arguments"])
    except (LookupError, TypeError, ValueError, OverflowError, OSError) as error:
        raise BaselineError(f"{path} is damaged: {error!r} in its launches") from error
    if not any(launch.cells for launch in launches):
        raise BaselineError(f"{path} is empty: no launch measured a cell")
    return Baseline(path, when, machine, arguments, launches, *_commit(content.get("commit_info")))


def _launch(lines: Any) -> Launch:
    """Return a launch of the cells on these lines; raise ValueError if one would be lost."""
    if not isinstance(lines, list):
        raise ValueError("the cells of a launch are no list")
    cells = {checked(line)["id"]: line for line in lines}
    if len(cells) < len(lines):
        raise ValueError("two cells of a launch have the same id")
    return Launch(cells)


def _machine(saved: Any) -> dict[str, Any]:
    """Return a fingerprint if it is one; raise ValueError otherwise."""

    def plain(value: Any) -> bool:
        return value is None or isinstance(value, int | float) or is_text(value)

    if not isinstance(saved, dict) or not is_count(saved.get("world_size")):
        raise ValueError("fingerprint without a world size")
    for key, value in saved.items():
        if not is_text(key) or not all(map(plain, value if isinstance(value, list) else [value])):
            raise ValueError(f"entry {key!r:.40} of the fingerprint")
    return saved


def _commit(saved: Any) -> tuple[str | None, bool]:
    """Return a commit, and whether files differed from it; nothing is judged by it."""
    if not isinstance(saved, dict) or not re.fullmatch("[0-9a-f]{7,64}", str(saved.get("id"))):
        return None, False
    return str(saved["id"]), saved.get("dirty") is True


def _arguments(saved: Any) -> list[str]:
    """Return pytest's arguments if a program can be given them; raise ValueError otherwise."""
    if not isinstance(saved, list) or not all(isinstance(each, str) for each in saved):
        raise ValueError("arguments that are no list of text")
    if any(b"\0" in os.fsencode(each) for each in saved):
        raise ValueError("an argument with a null byte")
    return saved


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

    return failing_in_a_sentence(
        Console(stderr=True),
        lambda: save(known.storage, known.save, Grid(known.ranks, rest), known.launches),
    )


def save(storage: Path, name: str, grid: Grid, launches: int) -> Exit:
    """Launch a grid, and write what it measured as a new baseline after each launch.

    Raises:
        Unusable: there is no launcher.
        OSError: a file cannot be written.
    """
    with next_file(storage, name) as path:
        check_replaceable(path)
    done: list[Launch] = []

    def keep(_: Grid, launch: Launch) -> None:
        nonlocal path
        done.append(launch)
        machine = fingerprint(grid.ranks, devices(done))
        if len(done) > 1:
            write(path, done, machine, grid.arguments)
            return
        with next_file(storage, name) as path:  # another may have saved since the launch began
            write(path, done, machine, grid.arguments)

    collect([grid], launches, keep=keep)
    usable = undisturbed_launches(done)
    few = [cell for cell, launches in usable.items() if len(launches) < MIN_LAUNCHES]

    def say(text: str, style: str | None = None) -> None:
        grid.console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)

    say(f"saved {len(usable)} cells of {len(done)} launches in {path}")
    if not usable or any(launch.failure for launch in done):
        say("a launch failed: the baseline holds what was measured", "red")
        return Exit.FAILED
    if few:
        say(
            f"the machine was too busy, so these cells have fewer than {MIN_LAUNCHES} "
            f"undisturbed launches: {', '.join(few)}",
            "yellow",
        )
        return Exit.INCONCLUSIVE
    return Exit.HELD


if __name__ == "__main__":
    make_interruptible()
    sys.exit(main())
