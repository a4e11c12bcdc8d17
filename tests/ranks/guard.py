"""Watch the ranks of a node from a process beside them.

A rank that is stopped, or whose C code never gives the interpreter back, cannot end itself, and
perhaps no other rank is free to do it: the guard kills it. Open MPI tells the survivors of deaths
by a signal, but not of an exit in C: the guard notices both. If no rank is left to print what has
happened, the guard prints it, and makes the launcher fail: ranks that all exit with 0 in the middle
of a run have proven nothing.

Each rank keeps a row in a small shared file, and the guard watches the rows. This file is run as a
script, so it imports the standard library only.
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
_HOOKS = tuple(str(Path(__file__).with_name(name)) for name in ("plugin.py", "sharing.py"))
_MACHINERY = ("/_pytest/", "/pluggy/", "/pytest/__main__.py", "<frozen runpy>", *_HOOKS)
_PAUSE = 0.1
_BETWEEN_KILLS = 0.7
_LAUNCHER_ENDS = 1.0
_PASSED_ON = 0.3  # seconds in which the launcher passes on what was printed
_OTHER_NODES_END = 10.0  # seconds in which ranks of other nodes say why the run ends


FAILED_SO_FAR = "Failed before the run ended early:"
"""The heading of the list of failures."""


class Row(NamedTuple):
    """The state of one rank. Times are ``time.monotonic()`` in seconds; 0 means never."""

    pid: int = 0  # 0: the rank has ended in order
    rank: int = 0
    output: int = -1  # a file descriptor of the rank for the guard to hold open; -1 for none
    kill_at: float = 0.0
    gone_at: float = 0.0  # when the guard noticed that the rank had ended unannounced


class Table:
    """The rows of one node, in a folder that also holds the notes of its ranks."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        with (self.folder / "table").open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), 0)

    @staticmethod
    def create(rows: int) -> str:
        """Make a folder with an empty table, and return its path."""
        folder = tempfile.mkdtemp(prefix="ranks-")
        (Path(folder) / "table").write_bytes(bytes(rows * _FORMAT.size))
        return folder

    def __len__(self) -> int:
        return len(self._memory) // _FORMAT.size

    def __getitem__(self, index: int) -> Row:
        return Row(*_FORMAT.unpack_from(self._memory, index * _FORMAT.size))

    def __setitem__(self, index: int, row: Row) -> None:
        # pack_into would write zeros first, and the guard, which may look at any moment, takes a
        # process id of 0 for a rank that has ended in order.
        start = index * _FORMAT.size
        self._memory[start : start + _FORMAT.size] = _FORMAT.pack(*row)

    def gone(self, seconds: float) -> list[int]:
        """Return the world ranks that ended unannounced at least ``seconds`` ago."""
        now = time.monotonic()
        rows = [self[k] for k in range(len(self))]
        return [row.rank for row in rows if 0 < row.gone_at < now - seconds]

    def notes(self, rank: int) -> Path:
        """The file with a rank's stacks, and the reason if it was killed."""
        return self.folder / f"rank{rank}"

    def read_notes(self, rank: int) -> str:
        """Return a rank's notes without the frames of pytest itself; empty if there are none."""
        path = self.notes(rank)
        lines = path.read_text().splitlines() if path.exists() else []
        return "\n".join(line for line in lines if not any(part in line for part in _MACHINERY))

    def failed(self, rank: int) -> Path:
        """The file that exists while a rank cleans up after it has failed."""
        return self.folder / f"failed{rank}"

    @property
    def leaving(self) -> Path:
        """The file that exists if a rank ends its session before the others."""
        return self.folder / "leaving"

    def note_failure(self, nodeid: str, summary: str) -> None:
        """Write down that a test has failed, for whoever sees the end of the run."""
        line = f"FAILED {nodeid}\t- {' '.join(summary.splitlines()[:1])}\n"
        # What cannot be written down is no reason to end the run.
        with contextlib.suppress(OSError), self._failures.open("ab") as file:
            file.write(line.encode(errors="backslashreplace"))

    def take_failures(self) -> list[str]:
        """Return a line for each test that has failed so far; nothing if they have been taken."""
        if not self._failures.exists():
            return []
        with contextlib.suppress(FileNotFoundError):  # another rank has been faster
            taken = self._failures.rename(self.folder / f"taken-{os.getpid()}")
            lines = taken.read_bytes().decode(errors="replace").splitlines()
            latest = {line.partition("\t")[0]: line for line in lines}
            return [line.replace("\t", " ") for line in latest.values()]
        return []

    @property
    def _failures(self) -> Path:
        return self.folder / "failures"

    @property
    def revoking(self) -> Path:
        """The file that exists while the ranks of the node are to revoke their communicators."""
        return self.folder / "revoking"

    @property
    def printed(self) -> Path:
        """The file that exists if the ranks have printed all notes, so the guard need not."""
        return self.folder / "printed"


def start(folder: str, stderr: int, launcher: int, several_nodes: bool = False) -> None:
    """Start the guard of the table in ``folder``.

    Args:
        stderr: the file descriptor that the guard writes to.
        launcher: the process id of mpiexec, or 0 if the one rank was started without it.
        several_nodes: whether there are ranks on other nodes, too.
    """
    os.posix_spawn(
        sys.executable,
        [sys.executable, "-S", "-E", __file__, folder, str(launcher), str(int(several_nodes))],
        os.environ,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
            (os.POSIX_SPAWN_DUP2, stderr, 2),
        ],
        setpgroup=0,  # so that Ctrl-C in the terminal does not reach it
    )


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # A launcher may keep dead ranks as zombies until their child processes have ended. The guard is
    # one of them, so it must not wait for a zombie to disappear.
    return _state(pid) != "Z"


def _open_output(pid: int, descriptor: int) -> int | None:
    """Open what another process writes to; None if the system does not allow it."""
    with contextlib.suppress(OSError):
        flags = os.O_WRONLY | os.O_APPEND | os.O_NOCTTY
        return os.open(f"/proc/{pid}/fd/{descriptor}", flags)
    return None


def _kill(pid: int, signum: int) -> None:
    with contextlib.suppress(OSError):  # it may have ended since we looked, or be another user's
        os.kill(pid, signum)


def _close(descriptor: int | None) -> None:
    if descriptor is not None:
        os.close(descriptor)


def _close_inherited() -> None:
    """Close the files inherited from the rank that started this: its launcher waits for them."""
    for path in list(Path("/dev/fd").iterdir()):
        with contextlib.suppress(OSError):  # the listing's own descriptor is closed already
            if int(path.name) > 2:
                os.close(int(path.name))


def _state(pid: int) -> str:
    """Return Linux's letter for the state of a process; empty on other systems."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return ""


def _is_hydra(pid: int) -> bool:
    """Return whether a process belongs to MPICH's launcher."""
    with contextlib.suppress(OSError):
        return "hydra" in Path(f"/proc/{pid}/comm").read_text()
    return False


class Guard:
    """Watches the rows of a table until all ranks of the node have ended."""

    def __init__(self, table: Table, launcher: int, several_nodes: bool = False) -> None:
        self._table = table
        self._launcher = launcher
        self._several_nodes = several_nodes
        self._terminal = _open_output(launcher, 2)
        self._left = set(range(len(table)))
        self._gone: list[int] = []  # ranks that ended unannounced, in this order
        self._next_kill = 0.0
        self._outputs = {index: self._hold(table[index]) for index in self._left}

    @staticmethod
    def _hold(row: Row) -> int | None:
        """Keep a rank's output open for as long as the other ranks need the launcher.

        If a rank ends with an error and its output is closed, Open MPI 5's launcher counts it
        twice. A launch of two would then be over before the other rank has reported the error.
        If all ranks have ended, it makes the launcher wait for the guard, which can make it fail.
        """
        return _open_output(row.pid, row.output)

    def watch(self) -> None:
        """Return when all ranks have ended."""
        while self._left:
            time.sleep(_PAUSE)
            for index in sorted(self._left):
                self._look_at(index)
            self._kill_one()
        if len(self._gone) < len(self._table):
            return
        self._print_notes()
        if 0 in self._gone:  # without the rank that prints, the run cannot go on on other nodes
            time.sleep(_OTHER_NODES_END if self._several_nodes else _PASSED_ON)
            self._end_launch()

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
        """Kill one overdue rank, then pause: all others may be waiting for that one only."""
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
        """Make the launcher fail: it ignores deaths by signal, and no rank can report this one."""
        if self._launcher and _exists(self._launcher):
            # MPICH's takes SIGTERM for an end in order.
            _kill(self._launcher, signal.SIGKILL if _is_hydra(self._launcher) else signal.SIGTERM)
            time.sleep(1.0)

    def _print_notes(self) -> None:
        """Print what the ranks have not printed, since no rank is left to do it."""
        lines = []
        if not self._table.printed.exists():
            order = ", ".join(map(str, self._gone))
            lines = [
                f"No rank of this node is left. They ended unannounced, in this order: {order}"
            ]
            for rank in sorted(self._gone):
                notes = self._table.read_notes(rank).splitlines()
                lines += [f"[rank {rank}] {line}" for line in notes]
        if 0 in self._gone and (failures := self._table.take_failures()):
            lines += [FAILED_SO_FAR, *failures]
        if not lines:
            return
        with contextlib.suppress(OSError):  # the reader may have gone
            os.write(self._destination(), "\n".join(["", *lines, ""]).encode())

    def _destination(self) -> int:
        """Return the descriptor to write to: the launcher's own once the launcher has ended.

        A launcher that is about to end may no longer pass on what it is sent.
        """
        end = time.monotonic() + _LAUNCHER_ENDS
        while self._terminal is not None and time.monotonic() < end:
            if not _exists(self._launcher):
                return self._terminal
            time.sleep(_PAUSE)
        return 2


def main(folder: str, launcher: int, several_nodes: bool) -> None:
    """Watch the table in ``folder`` to the end, then remove the folder."""
    _close_inherited()
    try:
        Guard(Table(folder), launcher, several_nodes).watch()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3] == "1")
