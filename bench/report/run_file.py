"""The file that takes all results of a session, and the header that says how they came about."""

import os
import platform
import shlex
import sys
from collections.abc import Collection
from datetime import datetime
from importlib import metadata
from itertools import chain, count
from pathlib import Path
from typing import Any

from pytest_benchmark.utils import get_commit_info

SESSION = "LOCKSTEP_SESSION"
"""Environment variable: the name of the nox session, which is part of the file's name."""

FOLDER = Path(".benchmarks", "lockstep")

REPORT = FOLDER / "report"
"""Where the page of pictures is written, with its files."""

VERSIONS = ("mpi4py", "numpy", "scipy", "scikit-learn", "torch", "pytest", "pytest-benchmark")


def new_path(session: str, folder: Path = FOLDER) -> Path:
    """A file for the results of a session, named after time, session and process; not there yet."""
    name = f"{datetime.now():%Y%m%d-%H%M%S}-{session}-{os.getpid()}"
    names = chain([name], (f"{name}-{number}" for number in count(2)))
    return next(path for each in names if not (path := folder / f"{each}.jsonl").exists())


def drawn_by(path: str | Path) -> str:
    """The command that draws a run file, and the page that it writes."""
    return f"nox -s report -- {path} writes {REPORT / 'index.html'}"


def header(session: str, ranks: int, devices: Collection[str] = ("cpu",)) -> dict[str, Any]:
    """Describe where and how results came about; takes about a second."""
    from bench.core.fingerprint import fingerprint  # most sessions of tests can do without

    commit = get_commit_info("lockstep")
    return {
        "session": session,
        "command": shlex.join(sys.orig_argv),
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "commit": commit["id"],
        "dirty": commit["dirty"],
        "ranks": ranks,
        "host": platform.node(),
        "system": platform.platform(),
        "versions": {name: _version(name) for name in VERSIONS},
        "fingerprint": fingerprint(ranks, devices),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
