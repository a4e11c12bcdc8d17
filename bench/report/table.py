"""The tables at the end of a run, read from the file of its results.

    python -m bench.report.table .benchmarks/lockstep/FILE.jsonl

prints them again. With --details the tables of cells have more columns.
"""

import argparse
import io
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from bench.report.cell_tables import DETAILS, LEGEND, cell_tables, notes
from bench.report.kinds import Measurement, Promise, WrongCell
from bench.report.record_tables import TABLES, promise_notes
from strategies.records import Record, Run, read

MIN_WIDTH, WIDE = 120, 160
"""Characters of a line that all columns need, and those of the details."""

HEADER_KEYS = ("session", "command", "date", "commit", "dirty", "host", "ranks")

R = TypeVar("R", bound=Record)


def render(run: Run, width: int, colour: bool, details: bool = False) -> str:
    """Tables of a run's results, question by question, as text `width` columns wide.

    Args:
        details: add columns to the tables of cells, and intervals to all of their ratios.
    """
    width = max(width, WIDE) if details else width
    console = Console(
        file=io.StringIO(), width=width, force_terminal=colour, no_color=not colour, highlight=False
    )
    cells = _only(Measurement, run.records)
    if cells:
        console.print(LEGEND + DETAILS * details)
    for question, tables in tables_by_question(run, details).items():
        console.print("", Text(question, style="bold underline"), sep="\n")
        for i, table in enumerate(tables):
            if i and not table.title:  # a title begins with a gap
                console.print()
            console.print(table)
    said = notes(cells, _only(WrongCell, run.records))
    if said := said + promise_notes(_only(Promise, run.records)):
        console.print("", *said, sep="\n")
    for number, problem in run.damaged:
        console.print(f"line {number} cannot be read: {escape(problem)}")
    return console.file.getvalue()  # type: ignore[attr-defined]


def tables_by_question(run: Run, details: bool = False) -> dict[str, list[Table]]:
    """Tables of a run's results, for each question that has any."""
    questions: dict[str, list[Record]] = {}
    for record in run.records:
        questions.setdefault(record.other_keys.get("question", ""), []).append(record)
    tables = {question: _tables(group, details) for question, group in questions.items()}
    return {question: found for question, found in tables.items() if found}


def _tables(group: Sequence[Record], details: bool) -> list[Table]:
    """A table for each net whose cells were measured, and one for each other kind of result."""
    found = {kind: _only(kind, group) for kind in TABLES}
    cells = [r for r in group if isinstance(r, Measurement | WrongCell)]
    return cell_tables(cells, details) + [
        TABLES[kind](records) for kind, records in found.items() if records
    ]


def _only(kind: type[R], records: Sequence[Record]) -> list[R]:
    return [record for record in records if isinstance(record, kind)]


def main() -> None:
    """Print the tables of the run files that are named as arguments."""
    parser = argparse.ArgumentParser("python -m bench.report.table", description=main.__doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE.jsonl")
    parser.add_argument("--details", action="store_true", help="more columns for cells")
    arguments = parser.parse_args()
    for path in arguments.files:
        try:
            run = read(path)
        except OSError as error:
            parser.error(str(error))
        about = [f"{key}: {run.header[key]}" for key in HEADER_KEYS if key in run.header]
        print(f"{path}\n" + "\n".join(about))
        width = shutil.get_terminal_size((MIN_WIDTH, 0)).columns
        print(render(run, max(MIN_WIDTH, width), sys.stdout.isatty(), arguments.details))


if __name__ == "__main__":
    main()
