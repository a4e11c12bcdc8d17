"""The folder in which a run keeps the files of its tasks."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from strategies.comm.on_rank_0 import on_rank_0
from strategies.tasks.executors import ranks_of


@contextmanager
def files_beside(journal: str | os.PathLike[str] | None, executor: Any) -> Iterator[Path]:
    """Make the folder JOURNAL.files, which stays; without a journal, one that lasts for the block.

    Collective if the executor is; every rank gets the same name. Another host may not have a folder
    of that name; there, a folder that tasks make is another one.

    Raises:
        OSError: it cannot be made.
    """
    comm = ranks_of(executor)

    def make() -> str:
        if journal is None:
            return tempfile.mkdtemp(prefix="lockstep-tasks-")
        folder = Path(f"{os.fspath(journal)}.files").absolute()
        folder.mkdir(parents=True, exist_ok=True)
        return str(folder)

    folder = Path(on_rank_0(comm, make) if comm else make())
    try:
        yield folder
    finally:
        if journal is None and (comm is None or comm.rank == 0):
            shutil.rmtree(folder, ignore_errors=True)
