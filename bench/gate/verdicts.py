"""Show verdicts as a table, and write them as JSON, JUnit XML and Markdown."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import IntEnum
from pathlib import Path
from xml.etree import ElementTree as ET

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bench.gate.statistics import CONFIDENCE, FAILED, TOLERANCE, UNDECIDED, Outcome, Verdict
from bench.report.judged import Judged
from bench.report.run_file import header, new_path
from nn.atomic_write import atomic_write
from strategies.records import RunFile


class Exit(IntEnum):
    """Exit codes of the programs that judge; 2 is what argparse exits with."""

    HELD = 0
    FAILED = 1
    USAGE = 2
    INCOMPARABLE = 3
    INCONCLUSIVE = 4


class Unusable(ValueError):
    """A baseline, a commit or the launcher is unusable, so nothing can be judged.

    The message says why, and what to do.
    """


COLOUR = {
    Outcome.PASS: "green",
    Outcome.FASTER: "bold green",
    Outcome.SEQUENTIAL_SLOWER: "yellow",
    Outcome.SUSPECT: "yellow",
    Outcome.SLOWER: "bold red",
    Outcome.SEQUENTIAL_FASTER: "bold red",
    Outcome.MISSING: "bold red",
    Outcome.INCONCLUSIVE: "yellow",
    Outcome.NOT_GATED: "dim",
    Outcome.NEW: "dim",
}

LOG_WIDTH = 120
"""Least width of a table in a log, in characters."""

HEADER = (
    "cell",
    "before",
    "after",
    "ratio",
    "interval",
    "seq. time",
    "par. time",
    "verdict",
    "why",
)


@dataclass(frozen=True)
class Report:
    """The verdicts of one comparison, and how it was made.

    Attributes:
        before, after: names of what was compared.
        tolerance, confidence: see `statistics.judge`.
        incomparable: differences of the machines' fingerprints; with any, nothing is judged.
        notes: further sentences about the launches.
        ranks: of each launch.
    """

    before: str
    after: str
    verdicts: Sequence[Verdict]
    tolerance: float = TOLERANCE
    confidence: float = CONFIDENCE
    incomparable: Sequence[str] = ()
    notes: Sequence[str] = ()
    ranks: int = 0

    @property
    def worst_first(self) -> list[Verdict]:
        """The verdicts: failed, then undecided, then held; else in the order of the grid."""
        return sorted(
            self.verdicts,
            key=lambda verdict: (verdict.outcome not in FAILED, verdict.outcome not in UNDECIDED),
        )

    @property
    def exit(self) -> Exit:
        """The exit code: the worst verdict counts, and a report without a gated cell is no pass."""
        outcomes = {verdict.outcome for verdict in self.verdicts}
        if self.incomparable:
            return Exit.INCOMPARABLE
        if outcomes & FAILED:
            return Exit.FAILED
        if outcomes & UNDECIDED or outcomes <= {Outcome.NOT_GATED, Outcome.NEW}:
            return Exit.INCONCLUSIVE
        return Exit.HELD

    @property
    def summary(self) -> str:
        """The exit code in words, and how many cells have which outcome."""
        if self.incomparable:
            return "incomparable: the machine or its libraries differ, so nothing was judged"
        counts = Counter(verdict.outcome for verdict in self.verdicts)
        said = ", ".join(f"{counts[outcome]} {outcome}" for outcome in Outcome if counts[outcome])
        return f"{self.exit.name.lower()}: {said or 'no cells'}"

    @property
    def method(self) -> str:
        """How to read the table."""
        return (
            "before and after are speedups, ratio is after / before. A cell fails when its ratio "
            f"is below {1 / (1 + self.tolerance):.3f} (parallel steps {self.tolerance:.1%} "
            "longer), in fresh launches too, and the whole interval is below 1. The intervals hold "
            f"for all cells together, each end with nominally {self.confidence:.0%} confidence. "
            "Times are after / before: above 1 is slower."
        )


def show(report: Report, console: Console) -> None:
    """Print the table, worst first, and below it the reason for every outcome but a pass."""
    # A log has no width. What is cut off there is lost, so let the reader wrap long lines.
    console.width = console.width if console.is_terminal else max(console.width, LOG_WIDTH)
    table = Table(
        title=escape(f"speedup: {report.before} -> {report.after}"),
        caption=report.method,
        box=box.SIMPLE_HEAD,
        collapse_padding=True,
    )
    *columns, _ = HEADER
    for name in columns:
        text = name in ("cell", "verdict")
        # A figure must not be cut off; a cell's name may take two lines.
        table.add_column(
            name.replace(" ", "\n"),
            justify="left" if text else "right",
            no_wrap=not text,
            overflow="fold",
        )
    for verdict in report.worst_first:
        *figures, _ = _row(verdict)
        table.add_row(*map(escape, figures), style=COLOUR[verdict.outcome])
    if report.verdicts:
        console.print(table)
    reasons = [f"{v.cell}: {v.reason}" for v in report.worst_first if v.outcome != Outcome.PASS]
    for line in (*reasons, *report.incomparable, *report.notes):
        console.print(f"- {line}", highlight=False, markup=False, soft_wrap=True)
    style = {Exit.HELD: "bold green", Exit.INCONCLUSIVE: "bold yellow"}.get(report.exit, "bold red")
    console.print(report.summary, style=style, highlight=False)


def to_json(report: Report) -> str:
    """Return the report as JSON, with every figure at full precision."""
    content = {
        "summary": report.summary,
        "exit_code": int(report.exit),
        "before": report.before,
        "after": report.after,
        "tolerance": report.tolerance,
        "confidence": report.confidence,
        "incomparable": list(report.incomparable),
        "notes": list(report.notes),
        "verdicts": [asdict(verdict) for verdict in report.verdicts],
    }
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def to_junit(report: Report) -> str:
    """Return JUnit XML with a test case per cell; a cell that could not be judged is an error."""
    failures = sum(v.outcome in FAILED for v in report.verdicts)
    errors = sum(v.outcome in UNDECIDED for v in report.verdicts) + bool(report.incomparable)
    skipped = sum(v.outcome in (Outcome.NOT_GATED, Outcome.NEW) for v in report.verdicts)
    total = len(report.verdicts) + bool(report.incomparable)
    suite = ET.Element(
        "testsuite",
        {
            "name": "speedup gate",
            "tests": str(total),
            "failures": str(failures),
            "errors": str(errors),
            "skipped": str(skipped),
        },
    )
    for verdict in report.verdicts:
        case = ET.SubElement(suite, "testcase", classname="speedup", name=verdict.cell, time="0")
        if verdict.outcome in FAILED:
            ET.SubElement(case, "failure", type=verdict.outcome, message=verdict.reason)
        elif verdict.outcome in UNDECIDED:
            ET.SubElement(case, "error", type=verdict.outcome, message=verdict.reason)
        elif verdict.outcome in (Outcome.NOT_GATED, Outcome.NEW):
            ET.SubElement(case, "skipped", type=verdict.outcome, message=verdict.reason)
        ET.SubElement(case, "system-out").text = "  ".join(_row(verdict))
    if report.incomparable:
        case = ET.SubElement(suite, "testcase", classname="speedup", name="fingerprint", time="0")
        message = "; ".join(report.incomparable)
        ET.SubElement(case, "error", type="incomparable", message=message)
    ET.indent(suite)
    return ET.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def to_markdown(report: Report) -> str:
    """Return a summary in Markdown for a CI page, worst first."""
    lines = [f"### Speedup gate: {report.summary}", ""]
    lines += [f"`{report.before}` (before) against `{report.after}` (after)", ""]
    if report.verdicts:
        lines += ["| " + " | ".join(HEADER) + " |"]
        lines += ["|" + "|".join("---" for _ in HEADER) + "|"]
        lines += [
            "| " + " | ".join(text.replace("|", "\\|") for text in _row(verdict)) + " |"
            for verdict in report.worst_first
        ]
        lines += [""]
    lines += [f"- {line}" for line in (*report.incomparable, *report.notes)]
    return "\n".join([*lines, "", report.method, ""])


def write(report: Report, json: Path | None, junit: Path | None, markdown: Path | None) -> None:
    """Write the files that are not None; append Markdown, since CI steps share one summary."""
    for path, text in ((json, to_json), (junit, to_junit)):
        if path is not None:
            with atomic_write(path, "w", stream=True, encoding="utf-8") as file:
                file.write(text(report))
    if markdown is not None:
        with markdown.open("a", encoding="utf-8") as summary:
            summary.write(to_markdown(report))


def keep(report: Report, session: str) -> None:
    """Leave a record of every verdict, in a run file as those of benchmarks.

    Raises:
        OSError: it cannot be written.
    """
    run = RunFile(new_path(session), lambda: header(session, report.ranks))
    for verdict in report.verdicts:
        run.append(_record(report, verdict))


def _record(report: Report, verdict: Verdict) -> Judged:
    return Judged(
        cell=verdict.cell,
        before=report.before,
        after=report.after,
        outcome=str(verdict.outcome),
        reason=verdict.reason,
        speedup_before=verdict.before,
        speedup_after=verdict.after,
        ratio=verdict.ratio,
        low=verdict.low,
        high=verdict.high,
        sequential_ratio=verdict.sequential_ratio,
        parallel_ratio=verdict.parallel_ratio,
        launches=list(verdict.launches),
        tolerance=report.tolerance,
        speedups=[list(group) for group in verdict.speedups],
    )


def _row(verdict: Verdict) -> tuple[str, ...]:
    def number(value: float | None, form: str = ".2f") -> str:
        return "-" if value is None else format(value, form)

    interval = (
        "-"
        if verdict.low is None or verdict.high is None
        else f"{verdict.low:.3f} .. {verdict.high:.3f}"
    )
    return (
        verdict.cell,
        number(verdict.before),
        number(verdict.after),
        number(verdict.ratio, ".3f"),
        interval,
        number(verdict.sequential_ratio, ".3f"),
        number(verdict.parallel_ratio, ".3f"),
        str(verdict.outcome),
        verdict.reason,
    )
