"""The folder of baselines: which files it holds, and the next free one.

As pytest-benchmark has it, a file is `MACHINE/NNNN_name.json`; after 9999 the number has five
digits.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock
from pytest_benchmark.utils import get_machine_id

STORAGE = Path(".benchmarks")

PATIENCE = 60.0
"""Seconds to wait for another program that is saving a baseline."""

LONGEST_NAME = 200
"""Bytes. Most file systems take 255, and the number and the temporary file's name need some."""

_FILE = re.compile(r"([0-9]{4,})_(.+)\.json", re.DOTALL)


class SavedFile(NamedTuple):
    """A file that may be a baseline; they are sorted by number."""

    number: int
    name: str
    path: Path


def name_of(text: str) -> str:
    """Read an argument that is the name of a baseline."""
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", text):
        raise argparse.ArgumentTypeError(
            f"a baseline's name is letters, digits, '_', '-' and '.', not {text!r}"
        )
    if (size := len(text.encode())) > LONGEST_NAME:
        raise argparse.ArgumentTypeError(
            f"a baseline's name has at most {LONGEST_NAME} bytes, and this one has {size}"
        )
    return text


def saved_files(storage: Path) -> list[SavedFile]:
    """List the files of all machines, in the order of their numbers."""
    found = ((_FILE.fullmatch(path.name), path) for path in storage.glob("*/*.json"))
    return sorted(SavedFile(int(match[1]), match[2], path) for match, path in found if match)


def of_this_machine(files: list[SavedFile]) -> list[SavedFile]:
    machine = get_machine_id()
    return [file for file in files if file.path.parent.name == machine]


@contextmanager
def next_file(storage: Path, name: str) -> Iterator[Path]:
    """A context that holds the next free path of this machine, which has no file yet.

    Nobody else is given the number if the file is there at the end of the block.

    Raises:
        OSError: the folder cannot be made or written, or is in use for longer than `PATIENCE`.
    """
    folder = storage / get_machine_id()
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(storage / f".{folder.name}.lock", timeout=PATIENCE):
        numbers = [file.number for file in of_this_machine(saved_files(storage))]
        yield folder / f"{max(numbers, default=0) + 1:04}_{name}.json"
