"""Count how often two launches of the grid contradict each other about which strategy is faster.

In a launch one cell is faster than another of its race if the 95% intervals of their speedups do
not overlap; otherwise they tie. Two launches contradict each other about a pair of cells if each
of the two is faster in one of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from bench.core.fingerprint import fingerprint
from bench.gate.aa.error_rates import Rate
from bench.gate.collect import Grid, collect
from bench.report.marked_page import marks

PAGE = Path("bench", "RESULTS.md")
MARKS = marks("rankings", "nox -s bench_aa -- --rankings")
GRID = ("--quick", "bench/test_speedup.py")
HEADER = ("race", "cells", "launches", "compared", "decided in both", "contradicted", "95%")

Cells = Mapping[str, Mapping[str, Any]]
"""Of a launch: cell id -> its public keys."""


@dataclass(frozen=True)
class Ranking:
    """What all pairs of launches say of all pairs of cells of a race.

    Attributes:
        race: model, batch size and device, in words.
        cells, launches: how many took part.
        compared: pairs of cells times pairs of launches.
        contradicted: in how many of those that both launches decide they contradict each other.
    """

    race: str
    cells: int
    launches: int
    compared: int
    contradicted: Rate | None


def measure(number: int, ranks: int, console: Console) -> list[Cells]:
    """Launch the grid `number` times.

    Raises:
        ValueError: a launch failed; the message says which and how.
    """
    (launches,) = collect([Grid(ranks, GRID, console=console)], number)
    if failures := [launch.failure for launch in launches if launch.failure]:
        raise ValueError(f"a launch {failures[0]}")
    return [launch.cells for launch in launches[:number]]


def rankings(launches: Sequence[Cells]) -> list[Ranking]:
    """Compare what launches say, race by race, of the cells that all of them measured."""
    common = [cell for cell in launches[0] if all(cell in cells for cells in launches)]
    races: dict[str, list[str]] = {}
    for cell in common:
        races.setdefault(_race(launches[0][cell]), []).append(cell)
    found = []
    for race, cells in races.items():
        compared = decided = contradicted = 0
        for pair in combinations(cells, 2):
            for one, other in combinations([_faster(launch, *pair) for launch in launches], 2):
                compared += 1
                decided += bool(one and other)
                contradicted += one * other < 0
        rate = Rate("contradicted", "", contradicted, decided) if decided else None
        found.append(Ranking(race, len(cells), len(launches), compared, rate))
    return found


def _race(cell: Mapping[str, Any]) -> str:
    return f"{cell['model']}, batch {cell['batch_size']}, {cell['device']}"


def _faster(launch: Cells, one: str, other: str) -> int:
    """1 if the first cell is faster, -1 if the second is, and 0 if they tie."""
    a, b = launch[one], launch[other]
    return int(a["speedup_low"] > b["speedup_high"]) - int(b["speedup_low"] > a["speedup_high"])


def show(found: Sequence[Ranking], console: Console) -> None:
    """Print the counts as a table."""
    table = Table(*HEADER, title="launches that contradict each other", box=box.SIMPLE_HEAD)
    for ranking in found:
        table.add_row(*_row(ranking))
    console.print(table)


def markdown(found: Sequence[Ranking], ranks: int) -> str:
    """Return the table in Markdown, and where it was measured."""
    machine = fingerprint(ranks, ["cpu"])
    lines = ["| " + " | ".join(HEADER) + " |", "|" + "---|" * len(HEADER)]
    lines += ["| " + " | ".join(_row(ranking)) + " |" for ranking in found]
    where = f"{machine['cpu']}, {machine['cores']} cores, {ranks} ranks, {machine['mpi']}"
    return "\n".join([*lines, "", f"Measured by launches of `{' '.join(GRID)}` on {where}.", ""])


def _row(ranking: Ranking) -> tuple[str, ...]:
    counts = (ranking.cells, ranking.launches, ranking.compared)
    if (rate := ranking.contradicted) is None:
        return (ranking.race, *map(str, counts), "0", "0", "")
    low, high = rate.interval
    interval = f"{low:.1%} to {high:.1%}"
    return (ranking.race, *map(str, counts), f"{rate.comparisons}", f"{rate.hits}", interval)
