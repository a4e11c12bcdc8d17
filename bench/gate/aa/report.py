"""Show the gate's error rates as a table, in the terminal and in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from bench.core.fingerprint import differences, fingerprint
from bench.gate import statistics
from bench.gate.aa import trial
from bench.gate.aa.error_rates import NEEDED, Rate, Sample, error_rates, undisturbed
from bench.report.marked_page import marks

PAGE = Path("bench", "gate", "README.md")
MARKS = marks("error rates", "nox -s bench_aa")
HEADER = ("outcome", "launches", "comparisons", "rate", "95% interval")


@dataclass(frozen=True)
class Report:
    """Error rates, none if there are too few launches, and notes on the launches."""

    rates: Sequence[Rate]
    notes: Sequence[str]


def summarise(path: Path, ranks: int) -> Report:
    """Compute the error rates of this code on this machine from a trial's data file."""
    launches, others = trial.read_trial(path)
    machine, source = fingerprint(ranks, ["cpu"]), trial.code()
    samples: dict[bool, list[Sample]] = {True: [], False: []}
    for launch in launches:
        if launch.code == source and not differences(launch.machine, machine):
            samples[launch.loaded].append(Sample.from_launch(launch.launch()))
        else:
            others += 1
    quiet = samples[False]
    where = f"{machine['cpu']}, {machine['cores']} cores, {ranks} ranks, {machine['mpi']}"
    notes = [f"{len(quiet)} launches on {where}"]
    if others:
        notes.append(f"left out: {others} launches of other code or machines, or damaged lines")
    usable = {cell: undisturbed(quiet, cell) for cell in (quiet[0].times if quiet else ())}
    counts = sorted(map(len, usable.values())) or [0]
    notes.append(f"{counts[0]} to {counts[-1]} launches of each cell were undisturbed")
    if counts[0] < NEEDED:
        notes.append(f"too few launches: {NEEDED} undisturbed ones of each cell are needed")
        return Report([], notes)
    spread = [
        float(np.std([statistics.log_speedup(*times) for times in own], ddof=1))
        for own in usable.values()
    ]
    notes.append(
        f"the speedup of a cell varies from launch to launch by {min(spread):.1%} to "
        f"{max(spread):.1%} (coefficient of variation)"
    )
    return Report(error_rates(quiet, samples[True], trial.AMOUNTS), notes)


def show(report: Report, console: Console) -> None:
    """Print the rates as a table, and the notes."""
    table = Table(*HEADER, title="how often the gate is wrong", box=box.SIMPLE_HEAD)
    for rate in report.rates:
        table.add_row(*_row(rate))
    if report.rates:
        console.print(table)
    for note in report.notes:
        console.print(f"- {note}", highlight=False, markup=False, soft_wrap=True)


def markdown(report: Report) -> str:
    """Return the table and the notes in Markdown."""
    lines = ["| " + " | ".join(HEADER) + " |", "|" + "---|" * len(HEADER)]
    lines += ["| " + " | ".join(_row(rate)) + " |" for rate in report.rates]
    return "\n".join([*lines, "", *(f"- {note}" for note in report.notes), ""])


def _row(rate: Rate) -> tuple[str, ...]:
    low, high = rate.interval
    return (
        rate.outcome,
        rate.launches,
        f"{rate.hits} of {rate.comparisons}",
        f"{rate.hits / rate.comparisons:.1%}",
        f"{low:.1%} to {high:.1%}",
    )
