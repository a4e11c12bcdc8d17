"""The tables at the end of a run: what was asked, what came out, and what it was compared to."""

import io
from collections.abc import Mapping, Sequence
from itertools import pairwise
from operator import attrgetter
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from bench.core.cell import Measurement
from bench.core.check import WrongTraining
from bench.report.results import Ratio, Training, Transfer

LEGEND = """\
[b]plain[/b]     plain training: one process with one thread, the other ranks asleep
[b]speedup[/b]   time of plain training over that of the strategy, on the same batches in turn;
          medians of paired rounds, with their 95% interval
[b]bound[/b]     the speedup if this strategy's communication were free
[b]threads[/b]   the speedup of one process that uses all cores by threads
[b]busy ...[/b]  percent of a rank's time in computing, sending, waiting for other ranks
[b]check[/b]     largest difference from plainly trained weights, over the distance they moved"""


def render(results: Mapping[str, Sequence[Any]], width: int, colour: bool) -> str:
    """Tables of all results, question by question, as text `width` columns wide."""
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
        for net in dict.fromkeys(map(_net, measured)):
            console.print(_cells(net, [m for m in measured if _net(m) == net]))
        if transfers := [r for r in group if isinstance(r, Transfer)]:
            console.print(_transfers(transfers))
        if trainings := [r for r in group if isinstance(r, Training)]:
            console.print(_trainings(trainings))
        if ratios := [r for r in group if isinstance(r, Ratio)]:
            console.print(_ratios(ratios))
    wrong = [r for group in results.values() for r in group if isinstance(r, WrongTraining)]
    if notes := _notes(cells, wrong):
        console.print("", *notes, sep="\n")
    return console.file.getvalue()  # type: ignore[attr-defined]


def _net(measured: Measurement | WrongTraining) -> str:
    """The model of a cell, and where it computes if that is not the CPU."""
    cell = measured.cell
    return cell.model if cell.device == "cpu" else f"{cell.model} on {cell.device}"


def _table(first: str, *others: str, title: str | None = None) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD,
        padding=0,
        show_edge=False,
        title=f"\n{title}" if title else "",
        title_justify="left",
        title_style="bold",
    )
    table.add_column(first, no_wrap=True, vertical="bottom")
    for name in others:
        table.add_column(name, justify="right", no_wrap=True, vertical="bottom")
    return table


def _last(rows: Sequence[Any], i: int, key: Any) -> bool:
    """Whether row i is the last of its kind, so that a gap follows."""
    return i + 1 == len(rows) or key(rows[i + 1]) != key(rows[i])


def _cells(title: str, cells: Sequence[Measurement | WrongTraining]) -> Table:
    epochs = len({m.cell.dataset_size for m in cells}) > 1
    unit = "s/epoch" if epochs else "ms/step"
    table = _table(
        "\nstrategy",
        "\nworkers",
        "\nbatch",
        *(["\nrows"] if epochs else []),
        f"plain\n{unit}",
        f"strategy\n{unit}",
        "\nspeedup",
        "\n95%",
        "\nbound",
        "\nthreads",
        "\nsamples/s",
        "busy/send\n/wait %",
        "\ncheck",
        title=title,
    )
    # Rows of one strategy stand together; or, after a race, those of one batch size.
    together = any(a.cell.strategy == b.cell.strategy for a, b in pairwise(cells))
    kind = attrgetter("cell.strategy" if together else "cell.batch_size")
    for i, m in enumerate(cells):
        cell = m.cell
        crowded = isinstance(m, Measurement) and m.oversubscribed
        table.add_row(
            cell.strategy,
            f"{cell.workers}†" if crowded else f"{cell.workers}",
            f"{cell.batch_size}",
            *([f"{cell.dataset_size:,}"] if epochs else []),
            *(_figures(m, epochs) if isinstance(m, Measurement) else _wrong(m)),
            style="dim" if crowded else None,
            end_section=_last(cells, i, kind),
        )
    return table


def _wrong(wrong: WrongTraining) -> list[str]:
    return ["", "", "[b red]WRONG[/]", *[""] * 5, f"[red]{_error(wrong.check.error)}[/]"]


def _figures(m: Measurement, epochs: bool) -> list[str]:
    scale = 1.0 if epochs else 1e3 / m.steps_per_round
    plain, strategy = (
        float(np.median(m.rounds[arm])) * scale for arm in ("sequential", "parallel")
    )
    kinds = ("compute", "communication", "waiting")
    shares = [100 * float(np.mean(m.profile[kind])) for kind in kinds if m.profile]
    return [
        f"{plain:.2f}",
        f"{strategy:.2f}",
        f"[{_style(m)}]{m.speedup:.2f}[/]",
        f"{m.speedup_low:.2f}-{m.speedup_high:.2f}",
        "" if m.bound is None else f"{m.bound:.2f}",
        f"{m.threads_speedup:.2f}",
        f"{m.samples_per_second:,.0f}",
        "/".join(f"{share:.0f}" for share in shares),
        _error(m.check_error),
    ]


def _style(m: Measurement) -> str:
    if m.cell.workers == 1:
        return "none"  # nothing to gain: what the strategy itself costs
    if m.speedup_high < 1:
        return "b red"
    return "b green" if m.speedup_low > 1 else "b yellow"


def _error(error: float | None) -> str:
    return "*" if error is None else f"{error:.0e}"


def _notes(cells: Sequence[Measurement], wrong: Sequence[WrongTraining]) -> list[str]:
    """What the marks and colours of the tables mean, where there are any."""
    notes = []
    if any(m.oversubscribed for m in cells):
        notes.append("† more workers than cores: they take turns, so there is no speed to be had")
    styles = {_style(m) for m in cells}
    if "b red" in styles:
        notes.append(
            "[b red]red[/]  slower than plain training: steps are too short for what they send and "
            "wait for. Try larger batches or fewer workers"
        )
    if "b yellow" in styles:
        notes.append("[b yellow]yellow[/]  not told apart from plain training by these rounds")
    notes += [f"* {escape(text)}" for text in dict.fromkeys(m.note for m in cells if m.note)]
    notes += [f"[b red]WRONG[/]  {escape(str(w))}" for w in wrong]
    return notes


def _transfers(transfers: Sequence[Transfer]) -> Table:
    table = _table("how", "workers", "bytes each", "microseconds", "GB/s")
    for i, t in enumerate(transfers):
        table.add_row(
            t.verb,
            f"{t.workers}†" if t.oversubscribed else f"{t.workers}",
            f"{t.bytes:,}",
            f"{1e6 * t.seconds:,.1f}",
            f"{1e-9 * t.bandwidth:.2f}",
            style="dim" if t.oversubscribed else None,
            end_section=_last(transfers, i, lambda t: (t.verb, t.workers)),
        )
    return table


def _trainings(trainings: Sequence[Training]) -> Table:
    table = _table("net", "computed by", "batches", "s/epoch", "of base", "test accuracy")
    for i, t in enumerate(trainings):
        table.add_row(
            t.net,
            t.device,
            t.batches,
            f"{t.seconds:.4f}",
            f"{t.over_base:.2f}",
            f"{100 * t.accuracy:.1f}%",
            end_section=_last(trainings, i, lambda t: t.net),
        )
    return table


def _ratios(ratios: Sequence[Ratio]) -> Table:
    table = _table("ratio", "measured", "promised")
    for r in ratios:
        style = "green" if r.kept else "b red"
        promised = "" if r.limit is None else f"at most {r.limit:g}"
        table.add_row(r.what, f"[{style}]{r.value:.3f}[/]", promised)
    return table
