"""The folder in which a run keeps the files of its tasks."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path


@contextmanager
def files_beside(journal: str | PathLike[str] | None) -> Iterator[Path]:
    """Make the folder JOURNAL.files, which stays; without a journal, one that lasts for the block.

    Workers on other hosts need to see it.

    Raises:
        OSError: it cannot be made.
    """
    if journal is None:
        with tempfile.TemporaryDirectory(prefix="lockstep-tasks-") as temporary:
            yield Path(temporary)
        return
    folder = Path(f"{journal}.files").absolute()
    folder.mkdir(parents=True, exist_ok=True)
    yield folder
