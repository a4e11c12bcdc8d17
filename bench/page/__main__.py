"""Draw the records on disk: one page that opens without a network, with its pictures and data.

nox -s report                       # the newest results of every kind in .benchmarks/lockstep
nox -s report -- RUN.jsonl          # of one run
nox -s report -- OLD.jsonl NEW.jsonl    # of two, side by side, with their ratio
nox -s report -- --picture speedup-by-strategy speed.svg    # one figure, as SVG or PNG
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.page import records
from bench.report.run_file import FOLDER, REPORT

PROGRAM = "nox -s report --"

PICTURES = (".svg", ".png")
"""Endings of the files that a picture can be written to."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        PROGRAM, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN.jsonl", help="run files")
    parser.add_argument(
        *("-o", "--output"),
        type=Path,
        default=REPORT,
        metavar="FOLDER",
        help="where to write (default: %(default)s)",
    )
    parser.add_argument(
        "--picture",
        nargs=2,
        metavar=("FIGURE", "FILE"),
        help="write one figure only, as SVG or PNG by the file's ending; each picture in the page "
        "has its name below it",
    )
    options = parser.parse_args(arguments)
    if options.picture and Path(options.picture[1]).suffix.lower() not in PICTURES:
        parser.error(f"--picture ... {options.picture[1]}: expected a file.svg or a file.png")
    for path in options.runs:
        if not path.exists():
            parser.error(f"{path} is not there: expected a run file, such as {FOLDER}/*.jsonl")
    if options.output.exists() and not options.output.is_dir():
        parser.error(f"{options.output} is a file: expected a folder, or a new name")
    sources, damaged = records.load(options.runs or sorted(FOLDER.glob("*.jsonl")))
    for line in damaged:
        print(line, file=sys.stderr)
    if not sources:
        print(
            f"no results in {', '.join(map(str, options.runs)) or FOLDER}: "
            "`nox -s bench_mpi -- --quick` measures some, `nox -s correctness` proves",
            file=sys.stderr,
        )
        return 2
    if len(options.runs) > 1:
        runs = [records.everything([source]) for source in sources]
        runs[0].damaged += damaged
    else:
        runs = [records.newest(sources, damaged)]
    from bench.page.files import write, write_picture  # loading altair takes a second
    from bench.page.images import UnknownFigureError

    try:
        if options.picture:
            name, path = options.picture
            write_picture(runs, name, Path(path))
            print(f"picture: {path}")
        else:
            print(f"report: {write(runs, options.output)}")
    except UnknownFigureError as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        print(f"the report cannot be written: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
