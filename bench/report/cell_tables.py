"""The tables of measured cells: one for each net."""

from collections.abc import Sequence
from itertools import pairwise
from operator import attrgetter

import numpy as np
from rich.markup import escape
from rich.table import Table

from bench.core.cell import interval
from bench.report.kinds import Measurement, WrongCell
from bench.report.layout import is_last, new_table
from bench.report.states import state_lines, threads

LEGEND = """\
[b]plain[/b]     plain training: one process with one thread, the other ranks asleep
[b]speedup[/b]   time of plain training over that of the strategy, on the same batches in turn;
          medians of paired rounds, with their 95% interval
[b]bound[/b]     the speedup if this strategy's communication were free
[b]threads[/b]   the speedup of one process that uses all cores by threads
[b]busy ...[/b]  percent of a rank's time in computing, sending, waiting for other ranks
[b]check[/b]     largest difference from plainly trained weights, over the distance they moved"""


DETAILS = """
[b]p95[/]        milliseconds in which 95 of 100 single steps end: all ranks wait for slow ones
[b]efficiency[/] speedup / workers
[b]serial[/]     share of a step that more workers do not make faster (Karp and Flatt)"""


def cell_tables(cells: Sequence[Measurement | WrongCell], details: bool = False) -> list[Table]:
    """A table for each net, in the order in which the nets were measured."""
    nets = dict.fromkeys(map(_net, cells))
    return [_one_net(net, [m for m in cells if _net(m) == net], details) for net in nets]


def _net(measured: Measurement | WrongCell) -> str:
    """The model of a cell, and where it computes if that is not the CPU."""
    cell = measured.cell
    return cell.model if cell.device == "cpu" else f"{cell.model} on {cell.device}"


def _one_net(title: str, cells: Sequence[Measurement | WrongCell], details: bool) -> Table:
    epochs = len({m.cell.dataset_size for m in cells}) > 1
    unit = "s/epoch" if epochs else "ms/step"
    table = new_table(
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
        *(["\np95", "\nefficiency", "\nserial"] if details else []),
        title=title,
    )
    table.caption = "\n".join(state_lines([m for m in cells if isinstance(m, Measurement)]))
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
            *(_figures(m, epochs, details) if isinstance(m, Measurement) else _wrong(m)),
            style="dim" if crowded else None,
            end_section=is_last(cells, i, kind),
        )
    return table


def _wrong(wrong: WrongCell) -> list[str]:
    return ["", "", "[b red]WRONG[/]", *[""] * 5, f"[red]{_error(wrong.error)}[/]"]


def _with_interval(m: Measurement, value: float | None, arm: str, details: bool) -> str:
    if value is None:
        return ""
    rounds = m.rounds.get(arm, [])
    if not details or len(rounds) != len(m.rounds["sequential"]):
        return f"{value:.2f}"
    low, high = interval(m.rounds["sequential"], rounds)
    return f"{value:.2f} {low:.2f}-{high:.2f}"


def _figures(m: Measurement, epochs: bool, details: bool) -> list[str]:
    steps = m.cell.dataset_size / m.cell.batch_size if epochs else 1e3
    scale = steps / m.steps_per_round
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
        _with_interval(m, m.bound, "silent", details),
        threads(m),
        f"{m.samples_per_second:,.0f}",
        "/".join(f"{share:.0f}" for share in shares),
        _error(m.check_error),
        *(_details(m) if details else []),
    ]


def _details(m: Measurement) -> list[str]:
    p95, serial = m.single_steps.get("p95"), m.serial_fraction
    return [
        "" if p95 is None else f"{1e3 * p95:.2f}",
        f"{m.efficiency:.2f}",
        "" if serial is None else f"{serial:.2f}",
    ]


def _style(m: Measurement) -> str:
    if m.cell.workers == 1:
        return "none"  # nothing to gain: what the strategy itself costs
    if m.speedup_high < 1:
        return "b red"
    return "b green" if m.speedup_low > 1 else "b yellow"


def _error(error: float | None) -> str:
    return "*" if error is None else f"{error:.0e}"


def notes(cells: Sequence[Measurement], wrong: Sequence[WrongCell]) -> list[str]:
    """What the marks and colours of the tables mean, where there are any."""
    said = []
    if any("|" in threads(m) for m in cells):
        said.append("a|b  turns of threads were of two kinds, with these medians")
    if any(m.oversubscribed for m in cells):
        said.append("† more workers than cores: they take turns, so there is no speed to be had")
    styles = {_style(m) for m in cells}
    if "b red" in styles:
        said.append(
            "[b red]red[/]  slower than plain training: steps are too short for what they send and "
            "wait for. Try larger batches or fewer workers"
        )
    if "b yellow" in styles:
        said.append("[b yellow]yellow[/]  not told apart from plain training by these rounds")
    said += [f"* {escape(text)}" for text in dict.fromkeys(m.note for m in cells if m.note)]
    said += [f"[b red]WRONG[/]  {escape(f'{w.cell.strategy}: {w.problem}')}" for w in wrong]
    return said
