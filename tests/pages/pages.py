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

COLLECT = "-n 1 --collect-only -q"
"""Options that have a session collect its tests, on one rank, and run none."""

GATE = 'LOCKSTEP_MPIEXEC="$FAKE_MPIEXEC" nox -R -s'
"""A session of the gate whose launches take no time: their cells are made up.

A busy machine makes it inconclusive (exit code 4), which is no fault of the command.
"""

INCONCLUSIVE = "|| [ $? -eq 4 ]"

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
    (r"nox -s (correctness|optional|promises)", rf"nox -R -s \1 -- {COLLECT}"),
    (r"nox -s (correctness|optional) -- (.*)", rf"nox -R -s \1 -- \2 {COLLECT}"),
    (r"nox -s (mutants|faults)", r"nox -R -s \1 -- --collect-only -q tests/\1"),
    (r"nox -s (mutants|faults) -- (.*)", r"nox -R -s \1 -- --collect-only -q tests/\1 \2"),
    (r"mpiexec (.*) -m pytest (.*)", r"mpiexec \1 -m pytest --collect-only -q \2"),
    (r"pytest (.*)", r"python -m pytest --collect-only -q \1"),
    # Of another project: tests/faults/test_lifted.py runs these.
    (r"cp -rL \S+/tests/ranks ranks|echo .* >> conftest\.py", "true"),
    (r"nox -s (bench_mpi -- .*--save .*)", rf"{GATE} \1 {INCONCLUSIVE}"),
    (r"nox -s (bench_compare -- .*)", rf"{GATE} \1 {INCONCLUSIVE}"),
    (r"nox -s bench_history", rf"{GATE} bench_history {INCONCLUSIVE}"),
    (r"nox -s bench_ab -- \S+(.*)", rf"{GATE} bench_ab -- HEAD\1 {INCONCLUSIVE}"),
    (r"nox -s bench_mpi -- (.*)", rf"nox -R -s bench_mpi -- \1 {COLLECT}"),
    # Says what it would do.
    (r"nox -s (bench_aa|bench_which|bench_results|report)( -- .*)?", r"nox -R -s \1 -- --help"),
    (r"nox -s (bench_aa|bench_which|bench_results)( -- .*)?", r"nox -R -s \1 -- --help"),
    (r"nox -s demo( -- .*)?", "nox -R -s demo -- --help"),
    (r"nox -s lint", "nox --list -s lint"),
    (r"nox -s pages.*", "nox --list -s pages"),
    (r"nox", "nox --list"),
]
"""Pattern of a command -> how it is tried here. Every command on a page has to match one.

`nox -R` installs nothing: the session `pages` has done so.
"""


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
            return found.expand(form)
    raise LookupError(f"{command!r}: no pattern of SHORT_FORMS says how to try this command")
