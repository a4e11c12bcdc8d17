"""Which arguments of pytest name tests. Imports nothing, since the noxfile uses it too."""

from collections.abc import Sequence
from pathlib import Path

TAKES_A_VALUE = {
    *("-c", "-k", "-m", "-o", "-p", "-r", "-W", "--basetemp", "--benchmark-compare"),
    *("--benchmark-json", "--benchmark-storage", "--confcutdir", "--data", "--deadline"),
    *("--deselect", "--device", "--ignore", "--ignore-glob", "--junitxml", "--log-file"),
    *("--loss", "--maxfail", "--model", "--optimizer", "--recipe", "--reference", "--rootdir"),
    *("--strategy", "--tb"),
}
"""Options whose value follows as an argument of its own, and may look like a path."""


def named_paths(arguments: Sequence[str], root: str | Path = ".") -> list[str]:
    """The arguments that are files, folders or node ids below `root`, and no option's value."""
    return [
        argument
        for before, argument in zip(["", *arguments], arguments)
        if before not in TAKES_A_VALUE and Path(root, argument.partition("::")[0]).exists()
    ]
