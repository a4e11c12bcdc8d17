"""Launch the cells of a baseline again, and judge their speedups.

    python -m bench.gate.compare NAME [--tolerance 5%] [-n N] [--json F] [--junit F] [--markdown F]

Exit codes: 0 every gated cell held; 1 a cell is slower (confirmed) or missing; 2 wrong usage, or no
usable baseline; 3 incomparable: another machine or other libraries; 4 inconclusive: other programs
or noise left a cell without a verdict. Only 0 is a pass.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from bench.core.fingerprint import differences, fingerprint, remarks
from bench.gate import baselines
from bench.gate.collect import Grid, collect
from bench.gate.command_line import add_judging_options, judge_and_report, make_interruptible
from bench.gate.launches import (
    Launch,
    devices,
    notes,
    oversubscribed_cells,
    undisturbed_launches,
    unmeasured_cells,
)
from bench.gate.statistics import FRESH_LAUNCHES, CellLaunches, Verdict, judge_and_confirm
from bench.gate.storage import STORAGE
from bench.gate.verdicts import Report


def judge_launches(
    before: Sequence[Launch],
    after: Sequence[Launch],
    relaunch: Callable[[Collection[str]], Sequence[list[Launch]]],
    tolerance: float,
) -> tuple[list[Verdict], list[Launch]]:
    """Judge launches, with fresh ones for the cells in doubt; return these launches as well.

    Args:
        relaunch: takes the cells in doubt; returns more launches before, and fresh ones after.
        tolerance: see `statistics.judge`.
    """
    relaunched: list[Launch] = []

    def confirm(cells: Collection[str]) -> tuple[CellLaunches, CellLaunches]:
        more, fresh = relaunch(cells)
        relaunched.extend([*more, *fresh])
        return undisturbed_launches(more), measured_by_all(fresh)

    judged = judge_and_confirm(
        undisturbed_launches(before),
        measured_by_all(after),
        confirm,
        tolerance=tolerance,
        oversubscribed=oversubscribed_cells([*before, *after]),
    )
    return judged, relaunched


def measured_by_all(launches: Sequence[Launch]) -> CellLaunches:
    """Return the undisturbed launches of the cells that no launch failed to measure.

    The other cells are missing, so they fail.
    """
    unmeasured = unmeasured_cells(launches)
    usable = undisturbed_launches(launches)
    return {cell: times for cell, times in usable.items() if cell not in unmeasured}


def compare(
    saved: baselines.Baseline, ranks: int | None, launches: int, tolerance: float
) -> Report:
    """Launch the cells of a baseline again and judge them."""
    label = saved.path.stem
    size = ranks or saved.fingerprint["world_size"]
    machine = fingerprint(size, devices(saved.launches))
    unequal = differences(saved.fingerprint, machine)
    if unequal:
        return Report(label, "this run", [], tolerance, incomparable=unequal)

    grid = Grid(size, saved.arguments)
    (after,) = collect([grid], launches)
    judged, relaunched = judge_launches(
        saved.launches,
        after,
        lambda cells: [[], *collect([grid], FRESH_LAUNCHES, only=cells)],
        tolerance,
    )
    known = [f"{said} (compared all the same)" for said in remarks(saved.fingerprint, machine)]
    said = [*known, *notes([*after, *relaunched])]
    return Report(label, "this run", judged, tolerance, notes=said, ranks=size)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="bench.gate.compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", metavar="NAME")
    parser.add_argument("--storage", type=Path, default=STORAGE)
    add_judging_options(parser)
    options = parser.parse_args(argv)

    def judge() -> Report:
        saved = baselines.load(options.storage, options.name)
        return compare(saved, options.ranks, options.launches, options.tolerance)

    return judge_and_report(judge, options)


if __name__ == "__main__":
    make_interruptible()
    sys.exit(main())
