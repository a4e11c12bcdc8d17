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
_BETWEEN_KILLS = 0.7


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


def start(folder: str, stderr: int, launcher: int) -> None:
    """Start the guard of the table in ``folder``; it has the last word if nobody survives."""
    os.posix_spawn(
        sys.executable,
        [sys.executable, "-S", "-E", __file__, folder, str(launcher)],
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


def _stopped(pid: int) -> bool:
    """Whether a process is stopped by a signal, as far as the system tells."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    return False


class Guard:
    """Watches the rows of a table until all ranks of the node have gone."""

    def __init__(self, table: Table, launcher: int) -> None:
        self._table = table
        self._launcher = launcher  # process id, or 0 if the one rank was started by hand
        self._left = set(range(len(table)))
        self._next_kill = 0.0

    def watch(self) -> None:
        while self._left:
            time.sleep(_PAUSE)
            for index in sorted(self._left):
                self._look_at(index)
            self._kill_one()

    def _look_at(self, index: int) -> None:
        row = self._table[index]
        if row.pid == 0:
            self._left.remove(index)
        elif not _exists(row.pid):
            row.gone_at = time.monotonic()
            self._table[index] = row
            self._left.remove(index)

    def _kill_one(self) -> None:
        """Kill one overdue rank, and wait: it may be the one for which all others are waiting."""
        now = time.monotonic()
        rows = {index: self._table[index] for index in self._left}
        overdue = [(not _stopped(r.pid), k) for k, r in rows.items() if 0 < r.kill_at < now]
        if not overdue or now < self._next_kill:
            return
        index = min(overdue)[1]
        with self._table.notes(rows[index].rank).open("a") as notes:
            notes.write("Killed by the guard: it was still busy long after its deadline.\n")
        if len(self._left) == 1:
            self._end_launch()
        os.kill(rows[index].pid, signal.SIGKILL)
        self._next_kill = now + _BETWEEN_KILLS

    def _end_launch(self) -> None:
        """Nobody is left to tell: have the launcher fail, which ignores deaths by a signal."""
        ranks = sorted(self._table[index].rank for index in range(len(self._table)))
        notes = [(rank, self._table.notes(rank)) for rank in ranks]
        texts = [f"rank {rank}:\n{path.read_text()}" for rank, path in notes if path.exists()]
        os.write(2, "\n".join(["No rank of this node is left.", *texts, ""]).encode())
        if self._launcher:
            os.kill(self._launcher, signal.SIGTERM)
            time.sleep(1.0)


def main(folder: str, launcher: int) -> None:
    # A rank may go, and the launcher close the pipe, between two looks.
    with contextlib.suppress(ProcessLookupError, BrokenPipeError):
        Guard(Table(folder), launcher).watch()
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
