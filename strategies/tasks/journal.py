"""The journal of a run: every finished task on disk, for the run that goes on with it."""

import hashlib
import os
import platform
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from nn.plain_json import plain
from strategies.records import Record, RunFile, read
from strategies.tasks.code import code_of, data_of
from strategies.tasks.keys import text_of
from strategies.tasks.values import from_json

try:
    import fcntl
except ImportError:  # Windows: nothing keeps two runs from one journal there
    fcntl = None  # type: ignore[assignment]


DIGEST = "[0-9a-f]" * 16
"""Pattern of the names of our folders of checkpoints; what else lies there is not ours."""


@dataclass(frozen=True)
class Task(Record, kind="task"):
    """A task that has ended, as the journal keeps it.

    Attributes:
        key: what the task is known by (`keys.key_of`).
        task: its parameters.
        value: what the function returned, as `values.to_json` writes it.
        error, seconds, attempts: as in `Outcome`.
    """

    key: str
    task: Any
    value: Any
    error: str | None
    seconds: float
    attempts: int


def header_of(
    function: Callable[[Any], Any], tasks: Sequence[Any], seed: int, threads: int, data: Any
) -> dict[str, Any]:
    """Return what a journal is a journal of.

    Raises:
        TypeError: the function carries something that cannot be compared.
    """
    return {
        "tasks": plain(tasks),
        "seed": seed,
        "threads": threads,
        "python": platform.python_version(),
        "code": code_of(function),
        "data": data_of(function, data),
    }


class Journal:
    """The journal of a run, which no other run may use meanwhile.

    Attributes:
        path: the file.
        finished: the tasks that ended in earlier runs, by key and in the order of the file, without
            those at its end that failed: nothing that is kept was decided by them.
        checkpoints: the folder of the checkpoints of tasks that have not ended. Its name is that of
            these tasks, this code and this data, so that no other run goes on with them.
    """

    def __init__(self, path: str | os.PathLike[str], header: Mapping[str, Any]):
        self.path = Path(path).absolute()
        folder = self.path.with_name(f"{self.path.name}.checkpoints")
        self.checkpoints = folder / hashlib.sha256(text_of(header).encode()).hexdigest()[:16]
        self._header = header

    @contextmanager
    def open(self) -> Iterator["Journal"]:
        """Take up what the file holds, and keep other runs from it in the block.

        Raises:
            ValueError: the file is no journal, or one of other tasks, code or data.
            BlockingIOError: another run is using it.
            OSError: it cannot be read or written.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists() and not self.path.is_file():
            raise OSError(f"journal={self.path} is no file: expected a file, or a new name")
        with self.path.open("a") as file:
            _lock(file, self.path)
            self.finished = self._read()
            folder = self.checkpoints.parent
            for stale in set(folder.glob(DIGEST)) - {self.checkpoints}:  # its journal was removed
                shutil.rmtree(stale)
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            try:
                yield self
            finally:
                with suppress(OSError):  # checkpoints of tasks that have not ended are in it
                    self.checkpoints.rmdir()
                    folder.rmdir()

    def append(self, task: Task) -> None:
        """Add a task that has ended. It is on the disk when this returns."""
        RunFile(self.path, self._header).append(task)

    def _read(self) -> dict[str, Task]:
        run = read(self.path)
        cut_off = [(line, why) for line, why in run.damaged if why == "cut off before its end"]
        others = [each for each in run.damaged if each not in cut_off]
        if run.header:
            differences = list(_differences(run.header, plain(self._header)))
            if differences:
                raise ValueError(
                    f"journal={self.path} is of another run: {'; '.join(differences)}. Give the "
                    "name of a new file, or remove this one"
                )
        elif run.records or others:
            raise ValueError(
                f"journal={self.path} is no journal, or its first line is damaged: expected the "
                "name of a new file, or of one that run_tasks has written"
            )
        for line, why in others:
            warnings.warn(
                f"{self.path}: line {line} is damaged ({why}); its task runs again", stacklevel=2
            )
        ended: dict[str, Task] = {}
        for record in run.records:
            if isinstance(record, Task) and _is_whole(record):
                ended.pop(record.key, None)  # a task that failed and ran again ended then
                ended[record.key] = record
        while ended and ended[next(reversed(ended))].error is not None:
            ended.popitem()
        return ended


def _is_whole(record: Task) -> bool:
    try:
        from_json(record.value)
    except Exception:
        warnings.warn(
            f"a value of task {record.task!r:.60} is damaged; it runs again", stacklevel=2
        )
        return False
    return True


def _lock(file: TextIO, path: Path) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BlockingIOError(
            f"journal={path} is in use by another run: wait for its end, or give another name"
        ) from None
    except OSError:  # a file system without locks
        pass


def _differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> Iterator[str]:
    """Yield what the header of a journal says that is not so here."""
    if "tasks" not in there:
        yield "it is not a journal of run_tasks"
        return
    old, new = there["tasks"], here["tasks"]
    if len(old) != len(new):
        yield f"it has {len(old)} tasks, not {len(new)}"
    for i, (one, other) in enumerate(zip(old, new)):
        if one != other:
            yield f"task {i} is {one} there and {other} here"
            break
    for name in ("seed", "threads", "python"):
        if there.get(name) != here[name]:
            yield f"{name} is {there.get(name)} there and {here[name]} here"
    for what in ("code", "data"):
        before, now = there.get(what) or {}, here[what]
        changed = [
            name for name in dict.fromkeys([*before, *now]) if before.get(name) != now.get(name)
        ]
        if changed:
            yield f"the {what} is another: {', '.join(changed)}"
