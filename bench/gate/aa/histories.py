"""Simulate how often bench_history is wrong: histories of known noise, with and without a change.

A baseline's log speedup is its level, an effect of the day that all its launches share, and the
mean of its launches' effects. Launches vary as measured (README.md, "How often it is wrong");
nobody has measured days, so several sizes are tried, and also what the statistics do not assume:
heavy tails, cells that move together, cells of unequal noise, and days like the day before.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table

from bench.gate.aa.error_rates import Rate
from bench.gate.changes import Array, Kind, Searched, fall, fitted, search
from bench.gate.statistics import MIN_LAUNCHES, TOLERANCE
from bench.report.marked_page import marks

MARKS = marks("error rates of histories", "nox -s bench_aa -- --histories")

CELLS = 6
LENGTHS = (5, 10, 30)
"""Baselines of a history."""

STEP, DRIFT = 0.10, 0.15
"""Planted slowdowns of one cell: half-way, and from the first baseline to the last."""

HEADER = (
    "noise",
    "baselines",
    "no change: found",
    "no change: failed",
    f"{STEP:.0%} step: found",
    "in its baseline",
    f"{DRIFT:.0%} drift: found",
)


@dataclass(frozen=True)
class Noise:
    """The noise of log speedups, as standard deviations.

    Attributes:
        launch: from launch to launch of a day.
        day: from day to day.
        shared: share of both that all cells have in common, 0 to 1.
        tail: degrees of freedom of Student's t; infinity is normal.
        memory: correlation of a day with the day before.
        unequal: how many times as noisy the last cell is as the first.
    """

    launch: float = 0.018
    day: float = 0.01
    shared: float = 0.0
    tail: float = math.inf
    memory: float = 0.0
    unequal: float = 1.0

    def draw(self, rng: np.random.Generator, length: int) -> Array:
        """Draw (CELLS, length) log speedups without a change."""
        days = self._effects(rng, length, 1)[..., 0]
        for day in range(1, length):
            new = math.sqrt(1 - self.memory**2) * days[:, day]
            days[:, day] = self.memory * days[:, day - 1] + new
        launches = self._effects(rng, length, MIN_LAUNCHES).mean(axis=2)
        scale = np.geomspace(self.unequal**-0.5, self.unequal**0.5, CELLS)
        return np.asarray(scale[:, None] * (self.day * days + self.launch * launches))

    def _effects(self, rng: np.random.Generator, length: int, launches: int) -> Array:
        """Draw (CELLS, length, launches) effects of unit variance."""

        def unit(cells: int) -> Array:
            size = (cells, length, launches)
            if math.isinf(self.tail):
                return rng.standard_normal(size)
            return rng.standard_t(self.tail, size) / math.sqrt(self.tail / (self.tail - 2))

        alike, own = unit(1), unit(CELLS)
        return math.sqrt(self.shared) * alike + math.sqrt(1 - self.shared) * own


KINDS = {
    "launches 1.8%, days 1%": Noise(),
    "launches 2.4%, days 2%": Noise(launch=0.024, day=0.02),
    "heavy tails": Noise(tail=4),
    "cells move together": Noise(shared=0.8),
    "one cell five times as noisy as another": Noise(unequal=5),
    "days like the day before": Noise(day=0.015, memory=0.5),
}


ROWS = len(KINDS) * len(LENGTHS)


@dataclass(frozen=True)
class Row:
    """The rates of one kind of noise, in the order of HEADER."""

    noise: str
    length: int
    rates: Sequence[Rate]


def rows(number: int) -> Iterator[Row]:
    """Simulate that many histories of each kind and length, without and with each change."""
    for name, noise in KINDS.items():
        for length in LENGTHS:
            yield Row(name, length, _rates(noise, length, number))


def _rates(noise: Noise, length: int, number: int) -> list[Rate]:
    at = length // 2
    step = math.log1p(STEP) * (np.arange(length) >= at)
    drift = np.asarray(math.log1p(DRIFT) * np.linspace(0, 1, length))
    hits = np.zeros(5, dtype=int)
    for seed in range(number):
        plain = noise.draw(np.random.default_rng(seed), length)
        cell = seed % CELLS
        unchanged = _search(plain)
        stepped, drifted = (_search(_slowed(plain, cell, by))[cell] for by in (step, drift))
        hits += [
            any(found.changes for found in unchanged),
            any(
                fall(fitted(values, found.changes)) > math.log1p(TOLERANCE)
                for values, found in zip(plain, unchanged, strict=True)
            ),
            any(change.size < 0 for change in stepped.changes),
            any(change.kind is Kind.STEP and change.at == at for change in stepped.changes),
            any(change.size < 0 for change in drifted.changes),
        ]
    return [Rate(name, "", int(hit), number) for name, hit in zip(HEADER[2:], hits, strict=True)]


def _search(values: Array) -> list[Searched]:
    return list(search({f"cell {number}": row for number, row in enumerate(values)}).values())


def _slowed(values: Array, cell: int, by: NDArray[np.floating]) -> Array:
    slowed = values.copy()
    slowed[cell] -= by
    return slowed


def show(found: Sequence[Row], number: int, console: Console) -> None:
    """Print the rates as a table."""
    table = Table(*HEADER, title=f"rates in {number} histories each", box=box.SIMPLE_HEAD)
    for row in found:
        table.add_row(*_cells(row))
    console.print(table)


def markdown(found: Sequence[Row], number: int) -> str:
    """Return the table in Markdown, with a note on what was simulated."""
    lines = ["| " + " | ".join(HEADER) + " |", "|" + "---|" * len(HEADER)]
    lines += ["| " + " | ".join(_cells(row)) + " |" for row in found]
    note = (
        f"- {number} histories of {CELLS} cells for each row and each change, {MIN_LAUNCHES} "
        "launches a baseline; in brackets the 95% interval of the rate"
    )
    return "\n".join([*lines, "", note, ""])


def _cells(row: Row) -> list[str]:
    return [row.noise, str(row.length), *map(_said, row.rates)]


def _said(rate: Rate) -> str:
    low, high = rate.interval
    return f"{rate.hits / rate.comparisons:.1%} ({low:.1%} to {high:.1%})"
