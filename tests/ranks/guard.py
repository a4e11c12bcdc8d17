"""A process beside the ranks of a node: it kills what nothing else can stop, and sees who has gone.

A rank that is stopped, or whose C code never gives the interpreter back, cannot end itself, and
perhaps no other rank is free to do it. Open MPI tells the survivors of deaths by a signal, but not
of an exit in C. Each rank keeps a row in a small shared file, and this process watches the rows.
Standard library only: this file is run as a script.
"""

import contextlib
import mmap
import os
import shutil
import signal
import struct
import sys
import tempfile
import time
from dataclasses import astuple, dataclass
from pathlib import Path

_FORMAT = struct.Struct("qqdd")
_PAUSE = 0.1


@dataclass
class Row:
    """What is known of one rank of the node. Times are ``time.monotonic()``, 0 stands for never."""

    pid: int = 0  # 0: it has left in order
    rank: int = 0
    kill_at: float = 0.0
    gone_at: float = 0.0  # when the guard found that it had gone without a word


class Table:
    """The rows of one node, in a folder that also holds what is known of the end of its ranks."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        with (self.folder / "table").open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), 0)

    @staticmethod
    def create(rows: int) -> str:
        """Make a folder with an empty table; return its path."""
        folder = tempfile.mkdtemp(prefix="ranks-")
        (Path(folder) / "table").write_bytes(bytes(rows * _FORMAT.size))
        return folder

    def __len__(self) -> int:
        return len(self._memory) // _FORMAT.size

    def __getitem__(self, index: int) -> Row:
        return Row(*_FORMAT.unpack_from(self._memory, index * _FORMAT.size))

    def __setitem__(self, index: int, row: Row) -> None:
        _FORMAT.pack_into(self._memory, index * _FORMAT.size, *astuple(row))

    def gone(self, seconds: float) -> list[int]:
        """The world ranks that went without a word at least ``seconds`` ago."""
        now = time.monotonic()
        rows = [self[k] for k in range(len(self))]
        return [row.rank for row in rows if 0 < row.gone_at < now - seconds]

    def notes(self, rank: int) -> Path:
        """The file where a rank's stacks go, and the reason why it was killed."""
        return self.folder / f"rank{rank}"


def start(folder: str, stderr: int) -> None:
    """Start the guard of the table in ``folder``; it has the last word if nobody survives."""
    os.posix_spawn(
        sys.executable,
        [sys.executable, "-S", "-E", __file__, folder],
        os.environ,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
            (os.POSIX_SPAWN_DUP2, stderr, 2),
        ],
        setpgroup=0,  # Ctrl-C in the terminal is not meant for it
    )


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _watch(table: Table) -> None:
    """Return when every rank of the node has gone."""
    left = set(range(len(table)))
    while left:
        time.sleep(_PAUSE)
        for index in sorted(left):
            row = table[index]
            if row.pid == 0:
                left.remove(index)
            elif not _exists(row.pid):
                row.gone_at = time.monotonic()
                table[index] = row
                left.remove(index)
            elif 0 < row.kill_at < time.monotonic():
                with table.notes(row.rank).open("a") as notes:
                    notes.write("Killed by the guard: it was still busy long after its deadline.\n")
                os.kill(row.pid, signal.SIGKILL)


def _last_words(table: Table) -> str:
    """What the ranks of the node left behind, if none of them lives to tell."""
    rows = [table[index] for index in range(len(table))]
    if not all(row.gone_at for row in rows):
        return ""
    notes = [(row.rank, table.notes(row.rank)) for row in rows]
    texts = [f"rank {rank}:\n{path.read_text()}" for rank, path in notes if path.exists()]
    return "\n".join(["All ranks of this node have died.", *texts, ""])


def main(folder: str) -> None:
    table = Table(folder)
    _watch(table)
    # The launcher may have closed the pipe.
    with contextlib.suppress(OSError):
        os.write(2, _last_words(table).encode())
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1])
