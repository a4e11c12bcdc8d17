"""Measure how often the gate is wrong, on this machine and with the gate's own functions.

    python -m bench.gate.aa [--launches 30] [--loaded 6] [-n 2] [--data FILE] [--write [FILE]]
    python -m bench.gate.aa --histories 1000 [--write [FILE]]
    python -m bench.gate.aa --rankings 10 [-n 2] [--write [FILE]]

adds that many launches to the data file, and reports on all launches in it: it may be stopped and
started again at any time, and `--launches 0` only reports. Each launch measures six cells as they
are, and a copy of each that is 10 or 20% slower by design. `--loaded` adds launches during which a
process outside keeps one core busy, from half-way through the first of them on. `--write` writes
the table between its marks, by default into bench/gate/README.md.

`--histories` launches nothing: it simulates that many histories of baselines of each kind of noise,
and says how often bench_history finds what is there, and what is not.

`--rankings` launches the quick grid that many times, and says how often two launches contradict
each other about which of two strategies is faster. By default it writes into bench/RESULTS.md.

Exit codes: 0 reported; 1 too few undisturbed launches, or a launch failed; 2 wrong usage, no
launcher, or a file that cannot be written.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import track

from bench.gate.aa import histories, rankings, report, trial
from bench.gate.command_line import count, make_interruptible, output_file, rank_count
from bench.gate.verdicts import Unusable
from bench.report.marked_page import around, write_between


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="bench.gate.aa",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--launches", type=count, default=30)
    parser.add_argument("--loaded", type=count, default=0)
    other = parser.add_mutually_exclusive_group()
    other.add_argument("--histories", type=count, metavar="N")
    other.add_argument("--rankings", type=count, metavar="N")
    parser.add_argument("-n", dest="ranks", type=rank_count, default=2)
    parser.add_argument("--data", type=output_file, default=trial.DATA)
    parser.add_argument("--write", type=Path, metavar="PAGE", nargs="?", const=Path())
    options = parser.parse_args(argv)
    if options.write:
        page, own = report.PAGE, report.MARKS
        if options.histories is not None:
            own = histories.MARKS
        elif options.rankings is not None:
            page, own = rankings.PAGE, rankings.MARKS
        options.write = page if options.write == Path() else options.write
        try:
            around(options.write, own)  # at once, not when all is measured
        except (OSError, ValueError) as error:
            parser.error(str(error))
    console = Console()
    if options.histories is not None:
        return simulate_histories(parser, options.histories, options.write, console)
    if options.rankings is not None:
        return rank(parser, options.rankings, options.ranks, options.write, console)
    try:
        trial.collect_trial(options.data, options.launches, options.ranks, False, console)
        trial.collect_trial(options.data, options.loaded, options.ranks, True, console)
    except (OSError, Unusable) as error:
        parser.error(str(error))
    if not options.data.exists():
        parser.error(f"{options.data} holds no launches: ask for some with --launches")
    found = report.summarise(options.data, options.ranks)
    report.show(found, console)
    if options.write and found.rates:
        try:
            write_between(options.write, report.MARKS, report.markdown(found))
        except (OSError, ValueError) as error:
            parser.error(f"{error} (the launches are kept: try again with --launches 0)")
    return 0 if found.rates else 1


def simulate_histories(
    parser: argparse.ArgumentParser, number: int, page: Path | None, console: Console
) -> int:
    """Report how often bench_history is wrong, and write that to a page if one is given."""
    if number == 0:
        parser.error("--histories 0: expected at least one history")
    rows = list(track(histories.rows(number), total=histories.ROWS, console=console))
    histories.show(rows, number, console)
    if page:
        write_between(page, histories.MARKS, histories.markdown(rows, number))
    return 0


def rank(
    parser: argparse.ArgumentParser, number: int, ranks: int, page: Path | None, console: Console
) -> int:
    """Report how often launches contradict each other, and write that to a page if one is given."""
    if number < 2:
        parser.error(f"--rankings {number}: expected at least two launches, to compare them")
    try:
        found = rankings.rankings(rankings.measure(number, ranks, console))
    except (OSError, Unusable) as error:
        parser.error(str(error))
    except ValueError as error:
        console.print(str(error), markup=False)
        return 1
    rankings.show(found, console)
    if page:
        write_between(page, rankings.MARKS, rankings.markdown(found, ranks))
    return 0


if __name__ == "__main__":
    make_interruptible()
    sys.exit(main())
