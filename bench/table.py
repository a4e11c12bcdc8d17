"""The tables at the end of a run: what was asked, what came out, and what it was compared to."""

import io
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from bench.measure import Measurement, WrongTraining
from bench.results import Ratio, Transfer

LEGEND = """\
[b]speedup[/b]  time of plain training (one process, one thread, other ranks asleep) over time of the
         strategy, on the same batches in turn; medians of paired rounds, and 95% interval
[b]bound[/b]    the speedup if this strategy's communication were free
[b]threads[/b]  the speedup of one process with all cores as threads
[b]busy/send/wait[/b]  percent of a rank's time in computing, sending, waiting for other ranks
[b]check[/b]    largest difference from plainly trained weights, over the distance they moved"""


def render(results: dict[str, list[Any]], width: int, colour: bool) -> str:
    """Tables of all results, question by question, as text for a terminal of `width` columns."""
    console = Console(
        file=io.StringIO(), width=width, force_terminal=colour, no_color=not colour, highlight=False
    )
    cells = [r for group in results.values() for r in group if isinstance(r, Measurement)]
    if cells:
        console.print(LEGEND)
    for question, group in results.items():
        console.print()
        console.print(Text(question, style="bold underline"))
        measured = [r for r in group if isinstance(r, Measurement | WrongTraining)]
        for model, of_model in groupby(measured, key=lambda m: m.cell.model):
            console.print(Padding(_cells(model, list(of_model)), (1, 0, 0, 0)))
        transfers = [r for r in group if isinstance(r, Transfer)]
        if transfers:
            console.print(_transfers(transfers))
        ratios = [r for r in group if isinstance(r, Ratio)]
        if ratios:
            console.print(_ratios(ratios))
    wrong = [r for group in results.values() for r in group if isinstance(r, WrongTraining)]
    for note in _notes(cells, wrong):
        console.print(note)
    return console.file.getvalue()  # type: ignore[attr-defined]


def _table(first: str, *others: str) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        title_justify="left",
        title_style="bold",
        padding=(0, 1),
    )
    table.add_column(first, no_wrap=True, vertical="bottom")
    for name in others:
        table.add_column(name, justify="right", no_wrap=True, vertical="bottom")
    return table


def _cells(model: str, cells: Sequence[Measurement | WrongTraining]) -> Table:
    epochs = len({m.cell.dataset_size for m in cells}) > 1
    table = _table("strategy", "workers", "batch")
    if epochs:
        table.add_column("rows", justify="right")
    unit = "s/epoch" if epochs else "ms/step"
    for name in (f"plain\n{unit}", f"strategy\n{unit}", "\nspeedup", "\n95%", "\nbound"):
        table.add_column(name, justify="right")
    for name in ("\nthreads", "effi-\nciency", "\nsamples/s", "busy/send\n/wait %", "\ncheck"):
        table.add_column(name, justify="right")
    table.title = model
    for m, following in zip(cells, [*cells[1:], None]):
        cell = m.cell
        crowded = isinstance(m, Measurement) and m.oversubscribed
        sizes = [f"{cell.workers}{'†' if crowded else ''}", f"{cell.batch_size}"]
        if epochs:
            sizes.append(f"{cell.dataset_size:,}")
        last = following is None or following.cell.strategy != cell.strategy
        table.add_row(
            cell.strategy,
            *sizes,
            *(_figures(m, epochs) if isinstance(m, Measurement) else _wrong(m)),
            style="dim" if crowded else None,
            end_section=last,
        )
    return table


def _wrong(wrong: WrongTraining) -> list[str]:
    return ["", "", "[b red]WRONG[/]", *[""] * 6, f"[red]{_error(wrong.check.error)}[/]"]


def _figures(m: Measurement, epochs: bool) -> list[str]:
    scale = 1.0 if epochs else 1e3 / m.steps_per_round
    plain, strategy = (
        float(np.median(m.rounds[arm])) * scale for arm in ("sequential", "parallel")
    )
    shares = [100 * float(np.mean(m.profile[k])) for k in ("compute", "communication", "waiting")]
    return [
        f"{plain:.2f}",
        f"{strategy:.2f}",
        f"[{_style(m)}]{m.speedup:.2f}[/]",
        f"{m.speedup_low:.2f}-{m.speedup_high:.2f}",
        "" if m.bound is None else f"{m.bound:.2f}",
        f"{m.threads_speedup:.2f}",
        f"{100 * m.efficiency:.0f}%",
        f"{m.samples_per_second:,.0f}",
        "/".join(f"{share:.0f}" for share in shares),
        _error(m.check_error),
    ]


def _style(m: Measurement) -> str:
    if m.cell.workers == 1:
        return "none"  # what the strategy itself costs; nothing to gain
    if m.speedup_high < 1:
        return "b red"
    return "b green" if m.speedup_low > 1 else "b yellow"


def _error(error: float | None) -> str:
    return "*" if error is None else f"{error:.0e}"


def _notes(cells: Sequence[Measurement], wrong: Sequence[WrongTraining]) -> list[str]:
    """What the marks and colours of the tables mean, where there are any."""
    notes = []
    if any(m.oversubscribed for m in cells):
        notes.append("† more workers than cores: they take turns, so no speedup can come of it")
    styles = {_style(m) for m in cells}
    if "b red" in styles:
        notes.append(
            "[b red]red[/]: slower than plain training. Where [i]wait[/] and [i]send[/] are large, "
            "steps are too short for what they must send: try larger batches or fewer workers"
        )
    if "b yellow" in styles:
        notes.append("[b yellow]yellow[/]: not told apart from plain training by these rounds")
    for text in dict.fromkeys(m.note for m in cells if m.note):
        notes.append(f"* {escape(text)}")
    notes += [f"[b red]WRONG[/] {escape(str(w))}" for w in wrong]
    return notes


def _transfers(transfers: Sequence[Transfer]) -> Table:
    table = _table("how", "workers", "bytes each", "microseconds", "GB/s")
    for t, following in zip(transfers, [*transfers[1:], None]):
        table.add_row(
            t.verb,
            f"{t.workers}{'†' if t.oversubscribed else ''}",
            f"{t.bytes:,}",
            f"{1e6 * t.seconds:,.1f}",
            f"{1e-9 * t.bandwidth:.2f}",
            style="dim" if t.oversubscribed else None,
            end_section=following is None or following.verb != t.verb,
        )
    return table


def _ratios(ratios: Sequence[Ratio]) -> Table:
    table = _table("ratio", "measured", "promised")
    for r in ratios:
        style = "green" if r.kept else "b red"
        promised = "" if r.limit is None else f"at most {r.limit:g}"
        table.add_row(r.what, f"[{style}]{r.value:.3f}[/]", promised)
    return table
