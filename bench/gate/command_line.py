"""What the programs of the gate share: options, signals, and the report at the end."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol, TypeVar

from rich.console import Console

from bench.gate import verdicts
from bench.gate.statistics import MIN_LAUNCHES, TOLERANCE
from bench.gate.verdicts import Exit, Report, Unusable
from bench.report.run_file import SESSION
from nn.atomic_write import atomic_write


def rank_count(text: str) -> int:
    """Read an argument that is a number of ranks, at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1 rank, not {text!r}")
    return int(text)


def count(text: str) -> int:
    """Read an argument that is a number, 0 or more."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a number, 0 or more, not {text!r}")
    return int(text)


def launch_count(text: str) -> int:
    """Read an argument that is a number of launches, at least as many as the gate needs."""
    if not text.isdecimal() or int(text) < MIN_LAUNCHES:
        raise argparse.ArgumentTypeError(
            f"expected at least {MIN_LAUNCHES} launches (they are the samples), not {text!r}"
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


def output_file(text: str) -> Path:
    """Read an argument that is a file to write at the end: say at once if that will not do.

    Its folder is made. A device or a pipe, such as /dev/stdout, is taken as it is.
    """
    path = Path(text)
    try:
        if not text or path.is_dir():
            raise argparse.ArgumentTypeError(f"expected the name of a file, not {text!r}")
        path.parent.mkdir(parents=True, exist_ok=True)
        check_replaceable(path)
    except OSError as error:
        why = error.strerror or error
        raise argparse.ArgumentTypeError(f"cannot write {text!r:.60}: {why}") from None
    return path


def appended_file(text: str) -> Path:
    """Read an argument that is a file to append to at the end: say at once if that will not do."""
    if not os.path.isfile(text):  # noqa: PTH113 - pathlib raises if a name is too long
        return output_file(text)
    if not os.access(text, os.W_OK):
        raise argparse.ArgumentTypeError(f"cannot write {text!r:.60}: it is read-only")
    return Path(text)


class _NotYet(Exception):
    """Ends a write, so that the file stays as it was."""


def check_replaceable(path: Path) -> None:
    """Find out whether `atomic_write` can write a file, which stays as it is.

    Raises:
        OSError: it cannot.
    """
    if path.is_file() or not path.exists():
        with suppress(_NotYet), atomic_write(path):
            raise _NotYet


def add_judging_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of every program that judges."""
    parser.add_argument("--tolerance", type=tolerance, default=TOLERANCE, metavar="5%")
    parser.add_argument("-n", dest="ranks", type=rank_count, metavar="N")
    parser.add_argument("--launches", type=launch_count, default=MIN_LAUNCHES, metavar="K")
    for kind in ("json", "junit"):
        parser.add_argument(f"--{kind}", type=output_file, metavar="FILE")
    parser.add_argument("--markdown", type=appended_file, metavar="FILE")


class Judged(Protocol):
    """What a program of the gate reports."""

    @property
    def exit(self) -> Exit: ...


R = TypeVar("R", bound=Judged)


def judge_and_report(judge: Callable[[], Report], options: argparse.Namespace) -> Exit:
    """Judge, show the verdicts, and write the files that the options ask for."""
    console = Console()

    def publish(report: Report) -> None:
        verdicts.show(report, console)
        verdicts.write(report, options.json, options.junit, options.markdown)
        verdicts.keep(report, os.environ.get(SESSION, "gate"))

    return judge_and_publish(judge, publish, console)


def judge_and_publish(
    judge: Callable[[], R], publish: Callable[[R], None], console: Console
) -> Exit:
    """Judge, and show and write the report; return its exit code."""
    report: R | None = None

    def judged() -> Exit:
        nonlocal report
        report = judge()
        publish(report)
        return report.exit

    code = failing_in_a_sentence(console, judged)
    # A file that could not be written hides no verdict.
    return report.exit if report and report.exit != Exit.HELD else code


def failing_in_a_sentence(console: Console, run: Callable[[], Exit]) -> Exit:
    """Run a program of the gate; what keeps it from its work is said, and is no verdict."""
    try:
        return run()
    except (Unusable, OSError) as error:
        console.print(f"error: {error}", style="bold red", highlight=False, markup=False)
        return Exit.USAGE


def make_interruptible() -> None:
    """Turn SIGTERM into an orderly exit, so that no launch or worktree is left behind."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
