"""Judge the working tree against another commit, both launched in turn on this machine.

    python -m bench.gate.ab GIT_REF [-n N] [--tolerance 5%] [pytest arguments; default --quick]

Use it on hosted runners, where no two jobs get the same machine. The other commit is checked out
into a temporary worktree, and launches alternate A B, B A, A B; so do those of the cells in doubt,
which are launched again. Each commit runs its own nn,
strategies and bench, with the packages of this environment. Exit codes: see bench.gate.compare.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.core.cores import available
from bench.gate.collect import Grid, collect
from bench.gate.command_line import add_judging_options, judge_and_report, make_interruptible
from bench.gate.compare import judge_launches
from bench.gate.launches import Launch, notes
from bench.gate.statistics import MIN_LAUNCHES
from bench.gate.verdicts import Report, Unusable

FRESH_PAIRS = MIN_LAUNCHES
"""Launches of each commit that confirm or clear a suspect.

With three more of each, 6 launches before meet 3 fresh ones, which vary less than what
`bench_compare` has: 3 before and 5 fresh ones. (1/6 + 1/3 = 0.50 and 1/3 + 1/5 = 0.53 of a launch's
variance.)
"""


@contextmanager
def worktree(reference: str) -> Iterator[Path]:
    """Check out the reference into a temporary worktree, and remove that at the end."""
    commit = _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{reference}^{{commit}}")
    with tempfile.TemporaryDirectory(prefix="lockstep-") as folder:
        root = Path(folder, "before")
        _git("worktree", "add", "--detach", str(root), commit)
        try:
            yield root
        finally:
            _git("worktree", "remove", "--force", str(root))


def compare(reference: str, ranks: int, launches: int, tolerance: float, rest: list[str]) -> Report:
    """Launch both commits in turn and judge them."""
    with worktree(reference) as root:
        grids = [Grid(ranks, rest, root, "before"), Grid(ranks, rest, Path.cwd(), "after")]

        def keep(grid: Grid, launch: Launch) -> None:
            if grid.root == root and not grid.nodes:  # the next launches would measure nothing too
                raise Unusable(f"{reference} measured nothing: {_why(launch, root)}")

        before, after = collect(grids, launches, keep=keep)
        judged, relaunched = judge_launches(
            before, after, lambda cells: collect(grids, FRESH_PAIRS, only=cells), tolerance
        )
        named = _git("-C", str(root), "describe", "--always", "--tags")
    label = _git("describe", "--always", "--tags", "--dirty")
    said = notes([*before, *after, *relaunched])
    return Report(f"{reference} ({named})", label, judged, tolerance, notes=said, ranks=ranks)


def _why(launch: Launch, root: Path) -> str:
    """Say why a launch of the reference measured no cell."""
    conftest = Path(root, "bench", "conftest.py")
    if not conftest.exists() or '"--cells"' not in conftest.read_text(encoding="utf-8"):
        return "it is older than this gate: its pytest has no option --cells, which launches need"
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
    add_judging_options(parser)
    options, rest = parser.parse_known_args(argv)
    return judge_and_report(
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
    make_interruptible()
    sys.exit(main())
