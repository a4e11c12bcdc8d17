"""A table of text, for the page and for its summary in Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bench.page.figure import Row

_NUMBER = re.compile(r"[-+]?[\d,.]+(e[-+]?\d+)?%?( \(.*\))?|")


@dataclass(frozen=True)
class Table:
    """Rows of text under their columns; `title` says what they are."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def is_number(self, column: int) -> bool:
        """Whether a column holds numbers, with an interval or without, which stand to the right."""
        values = [row[column] for row in self.rows]
        return any(values) and all(_NUMBER.fullmatch(value) for value in values)

    def markdown(self) -> str:
        """The table in Markdown; text in it is text, whatever its signs."""
        head = [
            self.columns,
            ["--:" if self.is_number(i) else "---" for i in range(len(self.columns))],
        ]
        rows = [[plain(value) for value in row] for row in self.rows]
        return "".join(f"| {' | '.join(row)} |\n" for row in (*head, *rows))


def plain(text: str) -> str:
    """Text whose signs Markdown and HTML leave alone."""
    escaped = re.sub(r"([\\`*_{}\[\]<>#|~!&$])", r"\\\1", text)
    return " ".join(escaped.split()).replace("\\<", "&lt;").replace("\\>", "&gt;")


def of_rows(title: str, rows: Sequence[Row]) -> Table:
    """A figure's table as text: numbers to 4 digits."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    shown = [[shown_value(row.get(column)) for column in columns] for row in rows]
    return Table(title, [column.replace("_", " ") for column in columns], shown)


def shown_value(value: Any) -> str:
    """A value of a row as a reader wants it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
