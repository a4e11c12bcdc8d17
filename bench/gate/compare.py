"""Run a baseline's cells again and judge their speedups.

    python -m bench.gate.compare NAME [--tolerance 5%] [-n N] [--json F] [--junit F] [--markdown F]

Exit codes: 0 every gated cell held; 1 a cell is slower (confirmed) or missing; 2 wrong usage, or no
usable baseline; 3 incomparable: another machine or other libraries; 4 inconclusive: neighbours or
noise left a cell without a verdict. Only 0 is a pass.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from rich.console import Console

from bench.core.fingerprint import differences, fingerprint
from bench.gate import baselines, statistics, verdicts
from bench.gate.launches import (
    Grid,
    Launch,
    collect,
    interruptible,
    launch_count,
    lost,
    oversubscribed,
    rank_count,
    side,
)
from bench.gate.statistics import MIN_LAUNCHES, TOLERANCE, Side, Verdict
from bench.gate.verdicts import Exit, Report, Unusable


def after_side(launches: Sequence[Launch]) -> dict[str, list[statistics.Arms]]:
    """The usable launches of this run; what a launch failed to measure is missing, hence fails."""
    gone = lost(launches)
    return {cell: rounds for cell, rounds in side(launches).items() if cell not in gone}


def settled(
    before: Side,
    after: Side,
    again: Callable[[Collection[str]], tuple[Side, Side]],
    tolerance: float,
    crowded: Collection[str],
) -> list[Verdict]:
    """Final verdicts. `again` launches the doubtful cells: more of before, and fresh after."""
    first = statistics.judge(before, after, tolerance=tolerance, oversubscribed=crowded)
    doubtful = statistics.unsettled(first)
    if not doubtful:
        return first
    more, fresh = again(doubtful)
    before = {cell: [*rounds, *more.get(cell, ())] for cell, rounds in before.items()}
    # A cell that does not survive being run again is missing, as it would be the first time.
    after = {
        cell: rounds for cell, rounds in after.items() if cell in fresh or cell not in doubtful
    }
    return statistics.judge(before, after, fresh, tolerance=tolerance, oversubscribed=crowded)


def compare(
    saved: baselines.Baseline, ranks: int | None, launches: int, tolerance: float
) -> Report:
    """Launch the cells of a baseline again and judge them."""
    label = saved.path.stem
    devices = {line["device"] for one in saved.launches for line in one.cells.values()}
    size = saved.fingerprint.get("world_size") if ranks is None else ranks
    if not isinstance(size, int) or size < 1:
        raise baselines.BaselineError(f"{saved.path} is damaged: world size {size!r}")
    unequal = differences(saved.fingerprint, fingerprint(size, devices))
    if unequal:
        return Report(label, "this run", [], tolerance, incomparable=unequal)

    grid = Grid(size, saved.arguments)
    (runs,) = collect([grid], launches)
    fresh: list[Launch] = []

    def again(cells: Collection[str]) -> tuple[Side, Side]:
        fresh.extend(*collect([grid], statistics.FRESH, only=cells))
        return {}, after_side(fresh)

    crowded = oversubscribed(saved.launches) | oversubscribed(runs)
    judged = settled(side(saved.launches), after_side(runs), again, tolerance, crowded)
    return Report(label, "this run", judged, tolerance, notes=notes([*runs, *fresh]))


def notes(launches: Sequence[Launch]) -> list[str]:
    """What a reader of the verdicts has to know about the launches."""
    failures = [f"a launch {launch.failure}" for launch in launches if launch.failure]
    taken = sum(len(launch.disturbed()) for launch in launches)
    total = sum(len(launch.cells) for launch in launches)
    if taken:
        failures.append(f"{taken} of {total} measurements left out: neighbours used the processor")
    return failures


def slowdown(text: str) -> float:
    """A tolerance, as `5%` or `0.05`."""
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"expected a slowdown such as 5% or 0.05, not {text!r}")
    return value


def arguments(parser: argparse.ArgumentParser) -> None:
    """The options that all judging programs share."""
    parser.add_argument("--tolerance", type=slowdown, default=TOLERANCE, metavar="5%")
    parser.add_argument("-n", dest="ranks", type=rank_count, metavar="N")
    parser.add_argument("--launches", type=launch_count, default=MIN_LAUNCHES, metavar="K")
    for kind in ("json", "junit", "markdown"):
        parser.add_argument(f"--{kind}", type=Path, metavar="FILE")


def conclude(judge: Callable[[], Report], options: argparse.Namespace) -> Exit:
    """Judge, show the verdicts, and write the files that `arguments` were given."""
    console = Console()
    try:
        report = judge()
    except Unusable as error:
        console.print(f"error: {error}", style="bold red", highlight=False, markup=False)
        return Exit.USAGE
    verdicts.show(report, console)
    verdicts.write(report, options.json, options.junit, options.markdown)
    return report.exit


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="bench.gate.compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", metavar="NAME")
    parser.add_argument("--storage", type=Path, default=baselines.STORAGE)
    arguments(parser)
    options = parser.parse_args(argv)

    def judge() -> Report:
        saved = baselines.load(options.storage, options.name)
        return compare(saved, options.ranks, options.launches, options.tolerance)

    return conclude(judge, options)


if __name__ == "__main__":
    interruptible()
    sys.exit(main())
