"""The tables at the end of a run, read from the file of its results.

    python -m bench.report.table .benchmarks/lockstep/FILE.jsonl

prints them again.
"""

import argparse
import io
import shutil
import sys
from collections.abc import Sequence
from itertools import pairwise
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from bench.report.kinds import Measurement, Mutant, Promise, Proof, Race, Transfer, WrongCell
from strategies.records import Record, Run, read

MIN_WIDTH = 120
HEADER_KEYS = ("session", "command", "date", "commit", "dirty", "host", "ranks")

LEGEND = """\
[b]plain[/b]     plain training: one process with one thread, the other ranks asleep
[b]speedup[/b]   time of plain training over that of the strategy, on the same batches in turn;
          medians of paired rounds, with their 95% interval
[b]bound[/b]     the speedup if this strategy's communication were free
[b]threads[/b]   the speedup of one process that uses all cores by threads
[b]busy ...[/b]  percent of a rank's time in computing, sending, waiting for other ranks
[b]check[/b]     largest difference from plainly trained weights, over the distance they moved"""


def render(run: Run, width: int, colour: bool) -> str:
    """Tables of a run's results, question by question, as text `width` columns wide."""
    console = Console(
        file=io.StringIO(), width=width, force_terminal=colour, no_color=not colour, highlight=False
    )
    cells = _only(Measurement, run.records)
    if cells:
        console.print(LEGEND)
    for question, tables in tables_by_question(run).items():
        console.print("", Text(question, style="bold underline"), *tables, sep="\n")
    if notes := _notes(cells, _only(WrongCell, run.records)):
        console.print("", *notes, sep="\n")
    for number, problem in run.damaged:
        console.print(f"line {number} cannot be read: {escape(problem)}")
    return console.file.getvalue()  # type: ignore[attr-defined]


def tables_by_question(run: Run) -> dict[str, list[Table]]:
    """Tables of a run's results, for each question that has any."""
    questions: dict[str, list[Record]] = {}
    for record in run.records:
        questions.setdefault(record.other_keys.get("question", ""), []).append(record)
    tables = {question: _tables(group) for question, group in questions.items()}
    return {question: found for question, found in tables.items() if found}


def _tables(group: Sequence[Record]) -> list[Table]:
    """A table for each net whose cells were measured, and one for each other kind of result."""
    measured = [r for r in group if isinstance(r, Measurement | WrongCell)]
    tables = [
        _cells(net, [m for m in measured if _net(m) == net])
        for net in dict.fromkeys(map(_net, measured))
    ]
    if transfers := _only(Transfer, group):
        tables.append(_transfers(transfers))
    if promises := _only(Promise, group):
        tables.append(_promises(promises))
    if races := _only(Race, group):
        tables.append(_races(races))
    if proofs := _only(Proof, group):
        tables.append(_proofs(proofs))
    if mutants := _only(Mutant, group):
        tables.append(_mutants(mutants))
    return tables


R = TypeVar("R", bound=Record)


def _only(kind: type[R], records: Sequence[Record]) -> list[R]:
    return [record for record in records if isinstance(record, kind)]


def _net(measured: Measurement | WrongCell) -> str:
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


def _cells(title: str, cells: Sequence[Measurement | WrongCell]) -> Table:
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


def _wrong(wrong: WrongCell) -> list[str]:
    return ["", "", "[b red]WRONG[/]", *[""] * 5, f"[red]{_error(wrong.error)}[/]"]


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


def _notes(cells: Sequence[Measurement], wrong: Sequence[WrongCell]) -> list[str]:
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
    notes += [f"[b red]WRONG[/]  {escape(f'{w.cell.strategy}: {w.problem}')}" for w in wrong]
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


def _promises(promises: Sequence[Promise]) -> Table:
    table = _table("ratio", "measured", "promised")
    for p in promises:
        style = "green" if p.kept else "b red"
        promised = "" if p.limit is None else f"at most {p.limit:g}"
        table.add_row(p.what, f"[{style}]{p.value:.3f}[/]", promised)
    return table


def _races(races: Sequence[Race]) -> Table:
    """The speed of every contender over the first."""
    table = _table("net", "workers", "batch", "contender", "ms/step", "speedup")
    for race in races:
        base = next(iter(race.rounds))
        speedups = {base: 1.0} | race.over(base)
        for name, times in race.rounds.items():
            table.add_row(
                race.net,
                f"{race.workers}",
                f"{race.batch_size}",
                name,
                f"{1e3 * np.median(times) / race.steps_per_round:.2f}",
                f"{speedups[name]:.2f}",
            )
        table.add_section()
    return table


def _proofs(proofs: Sequence[Proof]) -> Table:
    """How the tests of every file ended, and the largest error of what they compared."""
    table = _table("tests of", "number", "failed", "skipped", "largest error / tolerance")
    files = dict.fromkeys(p.test.partition("::")[0] for p in proofs)
    for file in files:
        group = [p for p in proofs if p.test.partition("::")[0] == file]
        worst = [c.error / c.tolerance for p in group for c in p.comparisons if c.tolerance]
        table.add_row(
            file,
            f"{len(group)}",
            f"{sum(p.outcome in ('failed', 'xpassed') for p in group)}",
            f"{sum(p.outcome == 'skipped' for p in group)}",
            f"{max(worst):.0e}" if worst else "",
        )
    return table


def _mutants(mutants: Sequence[Mutant]) -> Table:
    table = _table("mutant", "caught by")
    for m in mutants:
        table.add_row(m.name, f"{len(m.caught_by)} tests" if m.caught else "[b red]none[/]")
    return table


def main() -> None:
    """Print the tables of the run files that are named as arguments."""
    parser = argparse.ArgumentParser("python -m bench.report.table", description=main.__doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE.jsonl")
    for path in parser.parse_args().files:
        run = read(path)
        about = [f"{key}: {run.header[key]}" for key in HEADER_KEYS if key in run.header]
        print(f"{path}\n" + "\n".join(about))
        width = shutil.get_terminal_size((MIN_WIDTH, 0)).columns
        print(render(run, max(MIN_WIDTH, width), sys.stdout.isatty()))


if __name__ == "__main__":
    main()
