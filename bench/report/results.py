"""The measured tables of bench/RESULTS.md: measure again, and write them between their marks.

    nox -s bench_results                    # all of them, half an hour on a quiet machine
    nox -s bench_results -- grid peers      # some
    nox -s bench_results -- grid --from .benchmarks/lockstep/FILE.jsonl    # from a run on disk

Each part says on which commit, day and machine, by how many ranks and by which command it was
measured. A part that cannot be measured stays as it was.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table
from rich.text import Text

from bench.report.marked_page import around, marks, write_between
from bench.report.run_file import new_path
from bench.report.table import tables_by_question
from nn.atomic_write import atomic_write
from strategies.records import Run, read

PAGE = Path("bench", "RESULTS.md")
PICTURES = Path("bench", "studies")
PROGRAM = "nox -s bench_results"


@dataclass(frozen=True)
class Part:
    """A part of the page: the ranks and arguments of the module that measures it."""

    ranks: int
    module: str
    arguments: tuple[str, ...] = ()
    shown_as: str = ""
    picture: str = ""
    """The name of a picture that it draws beside its run file, for `PICTURES`."""

    @property
    def command(self) -> str:
        """What a reader types to measure the part alone."""
        if self.shown_as:
            return self.shown_as
        return shlex.join(["nox", "-s", "bench_mpi", "--", "-n", str(self.ranks), *self.arguments])


def _study(name: str, ranks: int = 2, picture: str = "") -> Part:
    return Part(ranks, "pytest", (f"bench/studies/{name}.py",), picture=picture)


PARTS = {
    "grid": Part(2, "pytest", ("bench",), "nox -s bench_mpi -- -n 2"),
    "model_parallel": _study("model_parallel"),
    "which_strategy": Part(2, "bench.studies.which_strategy", (), "nox -s bench_which"),
    "time_to_accuracy": _study("time_to_accuracy", picture="time_to_accuracy.png"),
    "sparse_updates": _study("sparse_updates"),
    "prefetching": _study("prefetching", ranks=1),
    "peers": _study("against_peers"),
    "shared_memory": _study("shared_memory"),
    "scaling": _study("scaling"),
    "languages": _study("languages"),
    "projects": _study("projects"),
    "devices": _study("devices"),
    "tasks": _study("tasks"),
    "kfold": _study("kfold"),
    "search": _study("search"),
    "ensemble": _study("ensemble"),
    "batch_size": _study("batch_size"),
    "gpt2": _study("gpt2"),
}


def measure(part: Part) -> Path:
    """Launch a part, and return its run file; a failed promise is a result like others.

    Raises:
        ValueError: it measured nothing, or was cut short.
    """
    launcher = shlex.split(os.environ.get("LOCKSTEP_MPIEXEC") or "mpiexec")
    command = [*launcher, "-n", str(part.ranks), sys.executable, "-m", part.module]
    path = new_path("bench_results")
    environment = os.environ | {"LOCKSTEP_CELLS": str(path), "LOCKSTEP_RANKS": str(part.ranks)}
    done = subprocess.run([*command, *part.arguments], env=environment, check=False)
    if not path.exists():
        raise ValueError(f"it measured nothing (exit code {done.returncode})")
    if done.returncode not in (0, 1):  # 1 is pytest's for a promise that was not kept
        raise ValueError(
            f"the launch ended with code {done.returncode}; {path} has what it measured"
        )
    return path


def write(name: str, path: Path) -> None:
    """Write the tables of a run file between the marks of a part, and copy its picture.

    Raises:
        ValueError: the file has no header, or the page no marks.
        OSError: a file cannot be read or written.
    """
    part, run = PARTS[name], read(path)
    if "fingerprint" not in run.header:
        raise ValueError(f"{path} does not say where it was measured: it has no header")
    write_between(PAGE, marks(name, PROGRAM), markdown(run, part.command))
    if part.picture:
        with atomic_write(PICTURES / part.picture) as file:
            file.write(path.with_name(part.picture).read_bytes())


def markdown(run: Run, command: str) -> str:
    """Render a run as Markdown: where and how it was measured, then its tables."""
    header = run.header
    machine = header["fingerprint"]
    dirty = " with changes" if header["dirty"] else ""
    when = f"{header['date'][:10]}, commit `{str(header['commit'])[:10]}`{dirty}"
    where = f"{machine['cpu']}, {machine['cores']} cores, {header['ranks']} ranks"
    lines = [f"`{command}`, {when}, on {where}, {machine['mpi']}.", ""]
    for question, tables in tables_by_question(run).items():
        lines += [f"**{question}**", "", *(line for table in tables for line in _rows(table))]
    return "\n".join([*lines, ""])


def _rows(table: Table) -> list[str]:
    """A terminal's table in Markdown."""
    title = [str(table.title).strip(), ""] if table.title else []
    header = [_cell(str(column.header)) for column in table.columns]
    cells = zip(*([_cell(str(cell)) for cell in column.cells] for column in table.columns))
    rule = ["---", *["--:"] * (len(header) - 1)]
    rows = (f"| {' | '.join(row)} |" for row in (header, rule, *cells))
    below = [line for text in str(table.caption or "").splitlines() for line in (_cell(text), "")]
    return [*title, *rows, "", *below]


def _cell(text: str) -> str:
    return " ".join(Text.from_markup(text).plain.split()).replace("|", "\\|")


@contextmanager
def _unchanged_after_errors(name: str, failed: list[str]) -> Iterator[None]:
    """Tell the user that a part of the page stays as it was, and go on with the others."""
    try:
        yield
    except (ValueError, OSError) as error:
        print(f"{name} stays as it was: {error}", file=sys.stderr)
        failed.append(name)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "nox -s bench_results --",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--from", dest="path", type=Path, help="a run on disk, for one part")
    options = parser.parse_args(arguments)
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"{', '.join(sorted(unknown))}: expected some of {', '.join(PARTS)}")
    if options.path and len(options.parts) != 1:
        parser.error("--from is for one part: name it")
    failed: list[str] = []
    # All are measured before the page changes: it would make the commit of later ones look dirty.
    paths = {}
    for name in options.parts or PARTS:
        with _unchanged_after_errors(name, failed):
            around(PAGE, marks(name, PROGRAM))  # a page that cannot take it is named at once
            paths[name] = options.path or measure(PARTS[name])
    for name, path in paths.items():
        with _unchanged_after_errors(name, failed):
            write(name, path)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
