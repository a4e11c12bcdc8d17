"""What the programs of the gate share: options, signals, and the report at the end."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from bench.gate import verdicts
from bench.gate.statistics import MIN_LAUNCHES, TOLERANCE
from bench.gate.verdicts import Exit, Report, Unusable


def rank_count(text: str) -> int:
    """Read an argument that is a number of ranks, at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1 rank, not {text}")
    return int(text)


def launch_count(text: str) -> int:
    """Read an argument that is a number of launches, at least as many as the gate needs."""
    if not text.isdecimal() or int(text) < MIN_LAUNCHES:
        raise argparse.ArgumentTypeError(
            f"expected at least {MIN_LAUNCHES} launches (they are the samples), not {text}"
        )
    return int(text)


def tolerance(text: str) -> float:
    """Read an argument that is a slowdown, such as `5%` or `0.05`."""
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"expected a slowdown such as 5% or 0.05, not {text!r}")
    return value


def add_judging_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of every program that judges."""
    parser.add_argument("--tolerance", type=tolerance, default=TOLERANCE, metavar="5%")
    parser.add_argument("-n", dest="ranks", type=rank_count, metavar="N")
    parser.add_argument("--launches", type=launch_count, default=MIN_LAUNCHES, metavar="K")
    for kind in ("json", "junit", "markdown"):
        parser.add_argument(f"--{kind}", type=Path, metavar="FILE")


def judge_and_report(judge: Callable[[], Report], options: argparse.Namespace) -> Exit:
    """Judge, show the verdicts, and write the files that the options ask for."""
    console = Console()
    try:
        report = judge()
    except Unusable as error:
        console.print(f"error: {error}", style="bold red", highlight=False, markup=False)
        return Exit.USAGE
    verdicts.show(report, console)
    verdicts.write(report, options.json, options.junit, options.markdown)
    return report.exit


def make_interruptible() -> None:
    """Turn SIGTERM into an orderly exit, so that no launch or worktree is left behind."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
