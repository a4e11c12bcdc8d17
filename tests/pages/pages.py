"""The pages of the project: their examples, and how each command on them is tried."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    page
    for pattern in ("*.md", ".github/*.md", "[a-z]*/**/*.md")
    for page in ROOT.glob(pattern)
    if not page.relative_to(ROOT).parts[0].startswith((".nox", ".benchmarks"))
)

COLLECT = "--collect-only -q"

SHORT_FORMS = [
    # Run as it stands: quick, or needed by the lines below it.
    (r"export .*", r"\g<0>"),
    (r"mpiexec -n \d python -m mpi4py \S+\.py", r"\g<0>"),
    (r"python -m bench\.report\.table .*", r"\g<0>"),
    # In an environment of its own; what is not pip itself is only looked up, and not installed.
    (r"pip install nox", "python -m venv .trial && .trial/bin/pip install --dry-run --quiet nox"),
    (
        r"pip install --upgrade pip",
        "python -m venv .trial && .trial/bin/pip install --quiet --upgrade pip",
    ),
    (r"pip install (.*)", r".trial/bin/pip install --dry-run --quiet \1"),
    # Collects the same tests, and runs none: `.ci/run` runs these sessions.
    (r"nox -s (correctness|optional|mutants|faults)", rf"nox -s \1 -- {COLLECT}"),
    (r"nox -s (correctness|optional|mutants|faults) -- (.*)", rf"nox -s \1 -- {COLLECT} \2"),
    (r"mpiexec (.*) -m pytest (.*)", rf"mpiexec \1 -m pytest {COLLECT} \2"),
    (r"pytest (.*)", rf"python -m pytest {COLLECT} \1"),
    # One cell, by as many launches as ever. A busy machine cannot judge (exit code 4), and one cell
    # of few rounds may come out slower (1); wrong usage (2) and another machine (3) cannot.
    (r"nox -s bench_mpi -- (.*--save .*)", r"nox -s bench_mpi -- \1 ONE_CELL || judged $?"),
    (r"nox -s bench_compare -- (.*)", r"nox -s bench_compare -- \1 || judged $?"),
    (r"nox -s bench_ab -- (\S+)(.*)", r"nox -s bench_ab -- HEAD ONE_CELL || judged $?"),
    (r"nox -s bench_mpi -- (.*)", rf"nox -s bench_mpi -- {COLLECT} \1"),
    # Says what it would do.
    (r"nox -s (bench_aa|bench_which|bench_results)( -- .*)?", r"nox -s \1 -- --help"),
    (r"nox -s lint", "nox --list -s lint"),
    (r"nox -s pages.*", "nox --list -s pages"),
    (r"nox", "nox --list"),
]
"""Pattern of a command -> how it is tried here. Every command on a page has to match one."""

ONE_CELL = 'bench/test_speedup.py --quick -k "SharedDataParallel and 2-256"'
JUDGED = "judged() { [ $1 -eq 1 ] || [ $1 -eq 4 ]; }"


@dataclass(frozen=True)
class Block:
    """A fenced block of a page; `line` is that of its first line."""

    page: Path
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path, language: str) -> Iterator[Block]:
    """The blocks of a page in one language."""
    text = page.read_text(encoding="utf-8")
    for found in re.finditer(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield Block(page, text.count("\n", 0, found.start(1)) + 1, found[1])


def commands(block: Block) -> list[str]:
    """The commands of a console block, without comments: the lines that begin with `$ `."""
    lines = block.text.replace("\\\n", " ").splitlines()
    given = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    return [re.sub(r"\s+#\s.*$", "", command).strip() for command in given]


def short_form(command: str) -> str:
    """How a command is tried.

    Raises:
        LookupError: no pattern of SHORT_FORMS matches it.
    """
    for pattern, form in SHORT_FORMS:
        if found := re.fullmatch(pattern, command):
            return found.expand(form).replace("ONE_CELL", ONE_CELL)
    raise LookupError(f"{command!r}: no pattern of SHORT_FORMS says how to try this command")
