"""A process beside the ranks of a node: it kills what nothing else can stop, and sees who has gone.

A rank that is stopped, or whose C code never gives the interpreter back, cannot end itself, and
perhaps no other rank is free to do it. Open MPI tells the survivors of deaths by a signal, but not
of an exit in C. Each rank keeps a row in a small shared file, and this process watches the rows. If
no rank is left to say what has happened, it has the last word.
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
from pathlib import Path
from typing import NamedTuple

_FORMAT = struct.Struct("qqqdd")
_MACHINERY = ("/_pytest/", "/pluggy/", "/pytest/__main__.py", "<frozen runpy>", "ranks/plugin.py")
_PAUSE = 0.1
_BETWEEN_KILLS = 0.7
_LAUNCHER_ENDS = 1.0


class Row(NamedTuple):
    """What is known of one rank of the node. Times are ``time.monotonic()``, 0 stands for never."""

    pid: int = 0  # 0: it has left in order
    rank: int = 0
    output: int = -1  # a descriptor of the rank that the guard is to hold open, if not negative
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
        # Not by pack_into, which begins with zeros: the guard may look at any moment, and take a
        # process id of 0 for a rank that has left.
        start = index * _FORMAT.size
        self._memory[start : start + _FORMAT.size] = _FORMAT.pack(*row)

    def gone(self, seconds: float) -> list[int]:
        """The world ranks that went without a word at least ``seconds`` ago."""
        now = time.monotonic()
        rows = [self[k] for k in range(len(self))]
        return [row.rank for row in rows if 0 < row.gone_at < now - seconds]

    def notes(self, rank: int) -> Path:
        """The file where a rank's stacks go, and the reason why it was killed."""
        return self.folder / f"rank{rank}"

    def last_words(self, rank: int) -> str:
        """What is known of the end of a dead rank; empty if nothing is."""
        path = self.notes(rank)
        lines = path.read_text().splitlines() if path.exists() else []
        return "\n".join(line for line in lines if not any(part in line for part in _MACHINERY))

    @property
    def leaving(self) -> Path:
        """Exists if a rank ends its session before the others."""
        return self.folder / "leaving"

    @property
    def told(self) -> Path:
        """Exists if the ranks have said what there is to say, and the guard need not."""
        return self.folder / "told"


def start(folder: str, stderr: int, launcher: int) -> None:
    """Start the guard of the table in ``folder``. It writes to the descriptor ``stderr``."""
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
    # A launcher may leave the dead unburied until all that they have started has gone too: this
    # process, which would wait for ever for them to disappear.
    return _state(pid) != "Z"


def _open_output(pid: int, descriptor: int) -> int | None:
    """What another process writes to, as far as the system gives it away."""
    with contextlib.suppress(OSError):
        flags = os.O_WRONLY | os.O_APPEND | os.O_NOCTTY
        return os.open(f"/proc/{pid}/fd/{descriptor}", flags)
    return None


def _kill(pid: int, signum: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # it may go between a look and this
        os.kill(pid, signum)


def _close(descriptor: int | None) -> None:
    if descriptor is not None:
        os.close(descriptor)


def _close_inherited() -> None:
    """Let go of what the rank that started this had open: its launcher waits for that to end."""
    for path in list(Path("/dev/fd").iterdir()):
        with contextlib.suppress(OSError):  # the listing itself has ended
            if int(path.name) > 2:
                os.close(int(path.name))


def _state(pid: int) -> str:
    """The letter by which Linux tells what a process is doing; other systems have none."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return ""


class Guard:
    """Watches the rows of a table until all ranks of the node have gone."""

    def __init__(self, table: Table, launcher: int) -> None:
        self._table = table
        self._launcher = launcher  # process id, or 0 if the one rank was started by hand
        self._terminal = _open_output(launcher, 2)
        self._left = set(range(len(table)))
        self._gone: list[int] = []  # ranks that went without a word
        self._next_kill = 0.0
        self._outputs = {index: self._hold(table[index]) for index in self._left}

    @staticmethod
    def _hold(row: Row) -> int | None:
        """Keep a rank's output open for as long as others need the launcher.

        Open MPI 5's counts a rank twice that has ended with an error and whose output has ended
        too. A launch of two would be over then, while the other rank is still to report it.
        """
        return _open_output(row.pid, row.output)

    def watch(self) -> None:
        while self._left:
            time.sleep(_PAUSE)
            for index in sorted(self._left):
                self._look_at(index)
            self._kill_one()
        if len(self._gone) == len(self._table) and not self._table.told.exists():
            self._say_last_word()

    def _look_at(self, index: int) -> None:
        row = self._table[index]
        if row.pid == 0:
            self._left.remove(index)
            _close(self._outputs[index])
        elif not _exists(row.pid):
            self._table[index] = row._replace(gone_at=time.monotonic())
            self._left.remove(index)
            self._gone.append(row.rank)

    def _kill_one(self) -> None:
        """Kill one overdue rank, and wait: it may be the one for which all others are waiting."""
        now = time.monotonic()
        rows = {index: self._table[index] for index in self._left}
        overdue = [(_state(r.pid) != "T", k) for k, r in rows.items() if 0 < r.kill_at < now]
        if not overdue or now < self._next_kill:
            return
        index = min(overdue)[1]
        with self._table.notes(rows[index].rank).open("a") as notes:
            notes.write("Killed by the guard: it was still busy long after its deadline.\n")
        if len(self._left) == 1:
            self._end_launch()
        _kill(rows[index].pid, signal.SIGKILL)
        self._next_kill = now + _BETWEEN_KILLS

    def _end_launch(self) -> None:
        """Nobody is left to tell: have the launcher fail, which ignores deaths by a signal."""
        if self._launcher:
            _kill(self._launcher, signal.SIGTERM)
            time.sleep(1.0)

    def _say_last_word(self) -> None:
        """Say what is known of all ranks, since none of them is left to do it."""
        order = ", ".join(map(str, self._gone))
        lines = [f"No rank of this node is left. They ended without a word, in this order: {order}"]
        for rank in sorted(self._gone):
            lines += [f"[rank {rank}] {line}" for line in self._table.last_words(rank).splitlines()]
        with contextlib.suppress(OSError):  # nobody may be listening any more
            os.write(self._audience(), "\n".join(["", *lines, ""]).encode())

    def _audience(self) -> int:
        """Where to write: a launcher that is ending may no longer pass on what it is sent."""
        end = time.monotonic() + _LAUNCHER_ENDS
        while self._terminal is not None and time.monotonic() < end:
            if not _exists(self._launcher):
                return self._terminal
            time.sleep(_PAUSE)
        return 2


def main(folder: str, launcher: int) -> None:
    _close_inherited()
    try:
        Guard(Table(folder), launcher).watch()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
