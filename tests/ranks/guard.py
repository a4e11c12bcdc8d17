"""A process beside the ranks of a node that kills those which nothing else can stop.

A rank that is stopped, or whose C code never gives the interpreter back, cannot end itself, and
perhaps no other rank is free to do it. Each rank therefore keeps, in a row of a small shared file,
the moment at which it is to be killed. Standard library only: this file is run as a script.
"""

import mmap
import os
import shutil
import signal
import struct
import sys
import tempfile
import time
from pathlib import Path

_ROW = struct.Struct("qqd")  # process id, world rank, time.monotonic() to be killed at (0: never)
_PAUSE = 0.1


class Table:
    """The shared file of one node, in a folder that also holds the stacks of its ranks."""

    def __init__(self, folder: str, rows: int) -> None:
        self.folder = Path(folder)
        self.rows = rows
        with open(self.folder / "table", "r+b") as file:
            self._memory = mmap.mmap(file.fileno(), rows * _ROW.size)

    @staticmethod
    def create(rows: int) -> str:
        """A new folder with an empty table; its path."""
        folder = tempfile.mkdtemp(prefix="ranks-")
        (Path(folder) / "table").write_bytes(bytes(rows * _ROW.size))
        return folder

    def write(self, row: int, rank: int, kill_at: float) -> None:
        """Put this process into ``row``."""
        _ROW.pack_into(self._memory, row * _ROW.size, os.getpid(), rank, kill_at)

    def read(self, row: int) -> tuple[int, int, float]:
        pid, rank, kill_at = _ROW.unpack_from(self._memory, row * _ROW.size)
        return pid, rank, kill_at

    def notes(self, rank: int) -> Path:
        """The file with what is known of the end of a rank: stacks, and who killed it."""
        return self.folder / f"rank{rank}"


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def kill(table: Table, pid: int, rank: int) -> None:
    with table.notes(rank).open("a") as notes:
        notes.write("Killed: it had not left the test seconds after the deadline.\n")
    os.kill(pid, signal.SIGKILL)


def main(folder: str, rows: int) -> None:
    """Watch until every rank of the node has gone, then clear up."""
    table = Table(folder, rows)
    left = set(range(rows))
    while left:
        time.sleep(_PAUSE)
        for row in sorted(left):
            pid, rank, kill_at = table.read(row)
            if not alive(pid):
                left.remove(row)
            elif 0 < kill_at < time.monotonic():
                kill(table, pid, rank)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
