"""Judge the working tree against another commit, both launched in turn on this machine.

    python -m bench.gate.ab GIT_REF [-n N] [--tolerance 5%] [pytest arguments; default --quick]

The robust way for hosted runners, where no two jobs meet the same machine: the other commit is
checked out into a temporary worktree, and launches alternate A B, B A, A B. Each commit runs its
own nn, strategies and bench, with the packages of this environment. Exit codes: bench.gate.compare.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.core.cores import available
from bench.gate.compare import after_side, arguments, conclude, notes, settled
from bench.gate.launches import Grid, Launch, collect, interruptible, oversubscribed, side
from bench.gate.statistics import FRESH, Side
from bench.gate.verdicts import Report, Unusable


@contextmanager
def worktree(reference: str) -> Iterator[Path]:
    """The reference's files in a temporary worktree, removed at the end."""
    commit = _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{reference}^{{commit}}")
    with tempfile.TemporaryDirectory(prefix="lockstep-") as folder:
        root = Path(folder, "before")
        _git("worktree", "add", "--detach", str(root), commit)
        try:
            yield root
        finally:
            _git("worktree", "remove", "--force", str(root))


def compare(reference: str, ranks: int, launches: int, tolerance: float, rest: list[str]) -> Report:
    """Launch both in turn and judge."""
    with worktree(reference) as root:
        grids = [Grid(ranks, rest, root, "before"), Grid(ranks, rest, Path.cwd(), "after")]

        def keep(grid: Grid, launch: Launch) -> None:
            if grid.root == root and not grid.nodes:  # nor will the next launches
                raise Unusable(f"{reference} measured nothing: {_why(launch, root)}")

        first, runs = collect(grids, launches, keep=keep)
        more: list[Launch] = []
        fresh: list[Launch] = []

        def again(cells: Collection[str]) -> tuple[Side, Side]:
            for own, new in zip((more, fresh), collect(grids, FRESH, only=cells), strict=True):
                own.extend(new)
            return side(more), after_side(fresh)

        crowded = oversubscribed([*first, *runs])
        judged = settled(side(first), after_side(runs), again, tolerance, crowded)
        named = _git("-C", str(root), "describe", "--always", "--tags")
    label = _git("describe", "--always", "--tags", "--dirty")
    said = notes([*first, *runs, *more, *fresh])
    return Report(f"{reference} ({named})", label, judged, tolerance, notes=said)


def _why(launch: Launch, root: Path) -> str:
    """The reason why a reference's launch has no cells."""
    conftest = Path(root, "bench", "conftest.py")
    if not conftest.exists() or '"--cells"' not in conftest.read_text(encoding="utf-8"):
        return "it is from before this gate, and does not know the --cells that launches ask for"
    return launch.failure or "no cells"


def _git(*command: str) -> str:
    done = subprocess.run(["git", *command], capture_output=True, text=True)
    if done.returncode:
        why = done.stderr.strip() or "no such commit here (a shallow clone has only the newest)"
        raise Unusable(f"git {' '.join(command)}: {why}")
    return done.stdout.strip()


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="bench.gate.ab",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("reference", metavar="GIT_REF")
    arguments(parser)
    options, rest = parser.parse_known_args(argv)
    return conclude(
        lambda: compare(
            options.reference,
            options.ranks or available(),
            options.launches,
            options.tolerance,
            rest or ["--quick"],
        ),
        options,
    )


if __name__ == "__main__":
    interruptible()
    sys.exit(main())
