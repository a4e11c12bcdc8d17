"""Which arguments of pytest name tests, and which decide what is trained.

Imports nothing, since the noxfile uses it too.
"""

from collections.abc import Sequence
from pathlib import Path

TAKES_A_VALUE = {
    *("-c", "-k", "-m", "-o", "-p", "-r", "-W", "--basetemp", "--benchmark-compare"),
    *("--benchmark-json", "--benchmark-storage", "--confcutdir", "--data", "--deadline"),
    *(
        "--deselect",
        "--device",
        "--gpt2-problems",
        "--gpt2-weights",
        "--ignore",
        "--ignore-glob",
        "--junitxml",
        "--log-file",
    ),
    *("--loss", "--maxfail", "--model", "--optimizer", "--recipe", "--reference", "--rootdir"),
    *("--strategy", "--tb"),
}
"""Options whose value follows as an argument of its own, and may look like a path."""


SELECTS = frozenset(
    ("--quick", "-k", "-m", "--deselect", "--ignore", "--ignore-glob", "-x", "--maxfail")
)
"""Options that leave cells out, and change none."""

SHOWS = (
    *("-q", "-v", "-s", "-r", "--tb", "--color", "--durations", "--junitxml", "--benchmark-"),
    "--deadline",
)
"""Beginnings of options that change what pytest prints and writes, and when it gives up."""


def training_options(arguments: Sequence[str]) -> list[str]:
    """The arguments that may change what a cell trains, or how it is measured."""
    kept: list[str] = []
    arguments = list(arguments)
    while arguments:
        option = arguments.pop(0)
        value = [arguments.pop(0)] if option in TAKES_A_VALUE and arguments else []
        name = option.partition("=")[0] if option.startswith("--") else option[:2]
        if option.startswith("-") and name not in SELECTS and not name.startswith(SHOWS):
            kept += [option, *value]
    return kept


def named_paths(arguments: Sequence[str], root: str | Path = ".") -> list[str]:
    """The arguments that are files, folders or node ids below `root`, and no option's value."""
    return [
        argument
        for before, argument in zip(["", *arguments], arguments)
        if before not in TAKES_A_VALUE and Path(root, argument.partition("::")[0]).exists()
    ]
