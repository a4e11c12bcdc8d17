"""How all tables of results look."""

from collections.abc import Callable, Sequence
from typing import Any

from rich import box
from rich.table import Table


def new_table(first: str, *others: str, title: str | None = None) -> Table:
    """A table whose first column is text, and the others are numbers."""
    table = Table(
        box=box.SIMPLE_HEAD,
        padding=0,
        show_edge=False,
        title=f"\n{title}" if title else "",
        title_justify="left",
        title_style="bold",
        caption_justify="left",
        caption_style="none",
    )
    table.add_column(first, no_wrap=True, vertical="bottom")
    for name in others:
        table.add_column(name, justify="right", no_wrap=True, vertical="bottom")
    return table


def is_last(rows: Sequence[Any], i: int, key: Callable[[Any], Any]) -> bool:
    """Whether row i is the last of its kind, so that a gap follows."""
    return i + 1 == len(rows) or key(rows[i + 1]) != key(rows[i])
