"""What a page is made of: figures, and sentences where the records of one are missing."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from strategies.records import Record

if TYPE_CHECKING:
    import altair as alt

Row = dict[str, Any]
"""A line of a figure's table: column -> text, number, truth value or None."""

ROWS = "rows"
"""The name under which the charts of a figure find its table."""


@dataclass(frozen=True)
class Panel:
    """A chart with the text above it. It draws from the table of its figure, see `charts.draw`."""

    title: str
    chart: alt.Chart | alt.LayerChart


@dataclass(frozen=True)
class Series:
    """Things that a figure tells apart by colour and shape, and that readers may hide.

    Attributes:
        field: the column that says to which of them a row belongs.
        names: in the order of their colours, at most as many as `style.SERIES` has.
        title: what they are, as a word above their buttons.
    """

    field: str
    names: Sequence[str]
    title: str


@dataclass(frozen=True)
class Figure:
    """A picture with its table: everything that it shows is in `rows`.

    Attributes:
        id: letters, digits and hyphens; names its files and its place in the page.
        title: the question that it answers, or what it shows.
        measured: what was measured and how often, as a sentence.
        see: what there is to see, as a sentence.
        alt: the picture in words, for those who do not see it.
        rows: its table, which is also its CSV file. Columns are letters, digits and `_`.
        charts: the name of a tab -> the charts that stand side by side in it; with one tab, no tab
            is shown.
        series: what readers may hide; None if there is nothing.
        records: those that it was drawn from, to say where and when they were measured.
    """

    id: str
    title: str
    measured: str
    see: str
    alt: str
    rows: Sequence[Row]
    charts: Mapping[str, Sequence[Panel]]
    series: Series | None = None
    records: Sequence[Record] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", self.id):
            raise ValueError(f"id={self.id!r}: expected small letters, digits and hyphens")
        bad = {name for row in self.rows for name in row if not re.fullmatch(r"\w+", name)}
        if bad:
            raise ValueError(f"{self.id}: columns {sorted(bad)}: expected letters, digits and _")
        if not self.rows or not any(self.charts.values()):
            raise ValueError(f"{self.id}: a figure has rows and charts; see `Missing`")


@dataclass(frozen=True)
class Missing:
    """A figure that cannot be drawn, since its records are not there.

    Attributes:
        what: what would be seen, as the beginning of a sentence: "Scaling has not been measured".
        command: what makes the records.
    """

    what: str
    command: str

    def __str__(self) -> str:
        return f"{self.what}: `{self.command}` does so."
