"""Show what the history of a machine's baselines holds, and write it as JSON."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bench.gate.baselines import Baseline
from bench.gate.changes import LEVEL, Change, Kind
from bench.gate.comparable import grouped
from bench.gate.statistics import FAILED, UNDECIDED, Outcome
from bench.gate.verdicts import COLOUR, LOG_WIDTH, Exit
from bench.report.judged import Tracked
from bench.report.run_file import header, new_path
from nn.atomic_write import atomic_write
from strategies.records import RunFile

SHORT = 9
"""Digits of a commit that are shown."""

HEADER = ("cell", "baselines", "change", "par. time", "interval", "first in", "commit", "date")


@dataclass(frozen=True)
class Located:
    """A change of a cell, with the baselines that it lies between.

    Attributes:
        change: its place counts the cell's own baselines.
        before, first: the last baseline before a step and the first one after it; the first and the
            last baseline of a drift.
        earliest, latest: the 95% interval of `first`.
        sequential, parallel: log ratios of the arms' times, after / before.
    """

    change: Change
    before: Baseline
    first: Baseline
    earliest: Baseline
    latest: Baseline
    sequential: float
    parallel: float


@dataclass(frozen=True)
class CellHistory:
    """The verdict on a cell, and the figures behind it.

    Attributes:
        cell: id.
        reason: one sentence for the reader of the report.
        baselines: how many have the cell, with enough undisturbed launches.
        fall: logarithm by which the speedup is now below its best, as fitted; 0 at its best.
        least_step, least_recent_step, least_drift: see `changes.Searched`; None if the cell was not
            searched.
        own: the baselines that have the cell.
        speedups: log speedup in each of them.
        fit: these, fitted with the changes; empty if the cell was not searched.
    """

    cell: str
    outcome: Outcome
    reason: str
    baselines: int
    changes: Sequence[Located] = ()
    fall: float = 0.0
    least_step: float | None = None
    least_recent_step: float | None = None
    least_drift: float | None = None
    own: Sequence[Baseline] = ()
    speedups: Sequence[float] = ()
    fit: Sequence[float] = ()


@dataclass(frozen=True)
class History:
    """All cells of a machine's baselines.

    Attributes:
        baselines: that were looked at, in order of time.
        unlike: how many others are of another machine, or were measured in another way.
        tolerance: a slowdown of the parallel arm; a cell that is slower by more has failed.
        left_out: the reason for each baseline that was not looked at.
        remarks: further sentences about the baselines.
    """

    baselines: Sequence[Baseline]
    cells: Sequence[CellHistory]
    tolerance: float
    unlike: int = 0
    left_out: Sequence[str] = ()
    remarks: Sequence[str] = ()

    @property
    def exit(self) -> Exit:
        """The exit code: the worst cell counts, and a history without a gated cell is no pass."""
        outcomes = {cell.outcome for cell in self.cells}
        if not self.baselines and self.unlike:
            return Exit.INCOMPARABLE
        if outcomes & FAILED:
            return Exit.FAILED
        if outcomes & UNDECIDED or outcomes <= {Outcome.NOT_GATED}:
            return Exit.INCONCLUSIVE
        return Exit.HELD

    @property
    def summary(self) -> str:
        """The exit code in words, and what was looked at."""
        counts = Counter(cell.outcome for cell in self.cells)
        said = ", ".join(f"{counts[outcome]} {outcome}" for outcome in Outcome if counts[outcome])
        looked = f"{len(self.cells)} cells in {len(self.baselines)} baselines"
        if self.left_out:
            looked += f" ({len(self.left_out)} left out)"
        changed = sum(bool(cell.changes) for cell in self.cells)
        looked += f", changes in {changed} of them"
        return f"{self.exit.name.lower()}: {looked}: {said or 'nothing to judge'}"

    @property
    def power(self) -> str:
        """The least changes that would have been found; empty if no cell was searched."""
        searched = [cell for cell in self.cells if cell.least_step is not None]
        if not searched:
            return ""

        def least(name: str) -> str:
            sizes = [math.expm1(getattr(cell, name)) for cell in searched]
            return f"{median(sizes):.1%} (worst cell {max(sizes):.1%})"

        return (
            "What would have been found in 9 of 10 such histories: a step of "
            f"{least('least_step')} half-way, of {least('least_recent_step')} before the newest "
            f"two baselines, a drift of {least('least_drift')} from the first to the last."
        )

    @property
    def method(self) -> str:
        """How to read the table."""
        return (
            "Times are of parallel steps, as the speedup shows them: +5% is a slowdown. Nominally, "
            f"a change is found in {LEVEL:.0%} of grids without one. A cell fails if "
            f"it is slower than at its best by more than {self.tolerance:.1%}."
        )

    @property
    def worst_first(self) -> list[CellHistory]:
        """The cells: failed, then undecided, then changed; else in the order of the grid."""
        return sorted(
            self.cells,
            key=lambda cell: (
                cell.outcome not in FAILED,
                cell.outcome not in UNDECIDED,
                not cell.changes,
            ),
        )


def show(history: History, console: Console) -> None:
    """Print the table, worst first, and below it a sentence for each cell that has changed."""
    console.width = console.width if console.is_terminal else max(console.width, LOG_WIDTH)
    table = Table(title=escape(_title(history)), caption=history.method, box=box.SIMPLE_HEAD)
    for name in HEADER:
        text = name in ("cell", "change", "first in", "commit")
        table.add_column(name, justify="left" if text else "right", overflow="fold")
    for cell in history.worst_first:
        for row in _rows(cell):
            table.add_row(*map(escape, row), style=COLOUR[cell.outcome])
    if history.cells:
        console.print(table)

    def say(text: str, style: str | None = None) -> None:
        console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)

    for cell in history.worst_first:
        if cell.changes or cell.outcome is not Outcome.PASS:
            say(f"- {cell.cell}: {cell.reason}")
    for line in (*history.remarks, *grouped(history.left_out)):
        say(f"- {line}")
    if history.power:
        say(history.power)
    style = {Exit.HELD: "bold green", Exit.INCONCLUSIVE: "bold yellow"}.get(
        history.exit, "bold red"
    )
    say(history.summary, style)


def describe(located: Located) -> str:
    """Say in a sentence what changed, where, and how sure that is."""
    change = located.change
    times = (
        f"times: sequential {math.expm1(located.sequential):+.1%}, "
        f"parallel {math.expm1(located.parallel):+.1%}"
    )
    low, high = math.expm1(-change.high), math.expm1(-change.low)
    size = f"{math.expm1(-change.size):+.1%} time ({low:+.1%} to {high:+.1%}; {times})"
    if change.kind is Kind.DRIFT:
        return f"drift of {size} from {_name(located.before)} to {_name(located.first)}"
    sure = ""
    if change.earliest != change.latest:
        earliest, latest = located.earliest.path.stem, located.latest.path.stem
        sure = f", with 95% confidence one of {earliest} to {latest}"
    return f"step of {size} in {_name(located.first)}, after {_name(located.before)}{sure}"


def to_json(history: History) -> str:
    """Return the history as JSON, with every figure at full precision."""
    content = {
        "summary": history.summary,
        "power": history.power,
        "exit_code": int(history.exit),
        "tolerance": history.tolerance,
        "level": LEVEL,
        "baselines": [_baseline(baseline) for baseline in history.baselines],
        "left_out": list(history.left_out),
        "remarks": list(history.remarks),
        "cells": [
            {
                "cell": cell.cell,
                "outcome": cell.outcome,
                "reason": cell.reason,
                "baselines": cell.baselines,
                "slower_than_best": math.expm1(cell.fall),
                "least_step": _time(cell.least_step),
                "least_recent_step": _time(cell.least_recent_step),
                "least_drift": _time(cell.least_drift),
                "changes": [_change(located) for located in cell.changes],
            }
            for cell in history.cells
        ],
    }
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def write(history: History, path: Path | None) -> None:
    """Write the history as JSON, if a path is given."""
    if path is not None:
        with atomic_write(path, "w", stream=True, encoding="utf-8") as file:
            file.write(to_json(history))


def _time(logarithm: float | None) -> float | None:
    return None if logarithm is None else math.expm1(logarithm)


def _baseline(baseline: Baseline) -> dict[str, Any]:
    return {
        "name": baseline.path.stem,
        "saved": baseline.saved.isoformat(),
        "commit": baseline.commit,
        "uncommitted_changes": baseline.uncommitted,
        "launches": len(baseline.launches),
    }


def _change(located: Located) -> dict[str, Any]:
    change = located.change
    return {
        "kind": change.kind,
        "time": math.expm1(-change.size),
        "time_low": math.expm1(-change.high),
        "time_high": math.expm1(-change.low),
        "p": change.p,
        "before": _baseline(located.before),
        "first": _baseline(located.first),
        "earliest": located.earliest.path.stem,
        "latest": located.latest.path.stem,
        "sequential_ratio": math.exp(located.sequential),
        "parallel_ratio": math.exp(located.parallel),
    }


def _title(history: History) -> str:
    if not history.baselines:
        return "speedup"
    first, last = history.baselines[0], history.baselines[-1]
    return f"speedup from {first.path.stem} to {last.path.stem}"


def _rows(cell: CellHistory) -> list[tuple[str, ...]]:
    head = (cell.cell, str(cell.baselines))
    rows: list[tuple[str, ...]] = []
    for number, located in enumerate(cell.changes):
        change = located.change
        first = located.before if change.kind is Kind.DRIFT else located.first
        rows.append(
            (
                *(head if number == 0 else ("", "")),
                str(change.kind),
                f"{math.expm1(-change.size):+.1%}",
                f"{math.expm1(-change.high):+.1%} .. {math.expm1(-change.low):+.1%}",
                first.path.stem,
                _commit(first),
                _date(first.saved),
            )
        )
    return rows or [
        (*head, "none" if cell.outcome is Outcome.PASS else str(cell.outcome), *"-----")
    ]


def _name(baseline: Baseline) -> str:
    return f"{baseline.path.stem} (commit {_commit(baseline)}, {_date(baseline.saved)})"


def _commit(baseline: Baseline) -> str:
    if baseline.commit is None:
        return "not known"
    return baseline.commit[:SHORT] + (" with changes" if baseline.uncommitted else "")


def _date(saved: datetime) -> str:
    return f"{saved:%Y-%m-%d}"


def keep(history: History, session: str) -> None:
    """Leave a record of every cell's history, in a run file as those of benchmarks.

    Raises:
        OSError: it cannot be written.
    """
    run = RunFile(new_path(session), lambda: header(session, 1))
    for cell in history.cells:
        run.append(
            Tracked(
                cell=cell.cell,
                outcome=str(cell.outcome),
                reason=cell.reason,
                baselines=[each.path.stem for each in cell.own],
                saved=[each.saved.isoformat() for each in cell.own],
                commits=[each.commit or "" for each in cell.own],
                speedups=[math.exp(value) for value in cell.speedups],
                fitted=[math.exp(value) for value in cell.fit],
                steps=[e.change.at for e in cell.changes if e.change.kind is Kind.STEP],
                tolerance=history.tolerance,
            )
        )
