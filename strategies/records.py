"""What every result is on disk: one line of JSON, with its kind, in the file of its run.

    @dataclass(frozen=True)
    class Transfer(Record, kind="transfer"):
        bytes: int
        seconds: float

    run_file = RunFile("run.jsonl", {"machine": "desk"})
    run_file.append(Transfer(940_072, 0.0002))  # on the disk when it returns
    read("run.jsonl").records  # [Transfer(bytes=940072, seconds=0.0002)]

`nn.plain_json` says how values are written and read.
"""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Self

from nn.named_errors import naming
from nn.plain_json import build, other_keys, plain
from nn.regular_file import open_regular

HEADER = "run"
"""The kind of a file's first line, which says where and how its records came about."""

_KINDS: dict[str, type["Record"]] = {}


class Record:
    """Base class of results: subclass it with `kind="name"`, as a frozen dataclass.

    A line is read back as an object if the module of its class has been imported.
    """

    kind: ClassVar[str]

    def __init_subclass__(cls, kind: str = "", **options: Any):
        super().__init_subclass__(**options)
        if not kind:
            return
        taken = _KINDS.get(kind, cls)
        if (taken.__module__, taken.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ValueError(f"kind {kind!r} is taken by {taken.__qualname__}: choose another name")
        cls.kind, _KINDS[kind] = kind, cls

    @property
    def other_keys(self) -> dict[str, Any]:
        """What stood on the record's line beside its fields, such as keys of a newer version."""
        return other_keys(self)

    def as_dict(self) -> dict[str, Any]:
        """The kind, the fields and the other keys, as values that JSON knows."""
        return {"kind": self.kind, **plain(self)}

    @classmethod
    def from_dict(cls, line: Mapping[str, Any]) -> Self:
        """Make the record whose `as_dict` gave `line`; keys that it does not know are kept.

        Raises:
            ValueError: a key is missing, or does not hold what its field is declared to hold.
        """
        return build(cls, {key: value for key, value in line.items() if key != "kind"})


@dataclass(frozen=True)
class Unknown(Record):
    """A record of a kind that no imported class has, kept as it is."""

    kind: str  # type: ignore[misc]
    keys: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, **self.keys}


@dataclass(frozen=True)
class Run:
    """What a run file holds.

    Attributes:
        header: empty if the file has none, as older files.
        damaged: the number of each line that cannot be read, from 1 on, and what is wrong with it.
    """

    header: dict[str, Any] = field(default_factory=dict)
    records: list[Record] = field(default_factory=list)
    damaged: list[tuple[int, str]] = field(default_factory=list)


class RunFile:
    """A file that takes the records of one run, from one process: rank 0.

    Args:
        path: the file, which the first record makes, with its folder.
        header: what the file begins with; a function is called at the first record only.
    """

    def __init__(
        self, path: str | Path, header: Mapping[str, Any] | Callable[[], Mapping[str, Any]]
    ):
        self.path, self._header = Path(path), header

    def append(self, record: Record | Mapping[str, Any], sync: bool = True) -> None:
        """Add a line, and return when it is on the disk; a line that a crash cut off is removed.

        Without `sync` the line survives the death of this process, but not of the machine.

        Raises:
            TypeError: the record holds a value that cannot be written.
            OSError: the file cannot be written, or is a device or a pipe. It names the file.
        """
        if self.path.exists() and not self.path.is_file():
            raise OSError(f"{self.path} is no file: expected a file, or a new name")
        line = record.as_dict() if isinstance(record, Record) else record
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # Appended, and not replaced whole: a line that a crash cuts off is removed by the next.
        with naming(self.path), self.path.open("a+b") as file:
            is_new = _mended_length(file) == 0
            if is_new:
                header = self._header() if callable(self._header) else self._header
                file.write(_encoded({"kind": HEADER, **header}))
            file.write(_encoded(line))
            file.flush()
            if sync:
                os.fsync(file.fileno())
        if is_new and os.name == "posix":  # the name of the file is to be on the disk too
            folder = os.open(self.path.parent, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)


def read(path: str | Path) -> Run:
    """Read a run file; a damaged line is named and skipped.

    Raises:
        OSError: the file cannot be read, or is a device, a pipe or a folder.
    """
    run = Run()
    try:
        with open_regular(path) as file:
            *lines, rest = file.read().split(b"\n")
    except ValueError as error:
        raise OSError(str(error)) from None
    for number, text in enumerate(lines, 1):
        try:
            line = json.loads(text.decode(), parse_constant=_refuse)
            if not isinstance(line, dict):
                raise ValueError(f"expected an object, not {line!r:.40}")
            if line.get("kind") != HEADER:
                run.records.append(from_dict(line))
            elif number == 1:
                run.header.update(line)
            else:
                raise ValueError("a second header")
        except ValueError as error:
            run.damaged.append((number, str(error)))
        except RecursionError:
            run.damaged.append((number, "nested too deeply"))
    if rest:
        run.damaged.append((len(lines) + 1, "cut off before its end"))
    return run


def from_dict(line: Mapping[str, Any]) -> Record:
    """Make a record of any kind; one that no imported class has becomes an `Unknown`.

    Raises:
        ValueError: there is no kind, or the keys are not those that the kind needs.
    """
    # Cells had no kind before there were others, and only cells have an id.
    kind = line.get("kind", "cell" if "id" in line else None)
    if not isinstance(kind, str):
        raise ValueError(f"expected the name of a kind, not {kind!r}")
    if kind in _KINDS:
        return _KINDS[kind].from_dict(line)
    return Unknown(kind, {key: value for key, value in line.items() if key != "kind"})


def _mended_length(file: BinaryIO) -> int:
    """Remove what follows the last line end, and return the length of the file then."""
    end = file.seek(0, os.SEEK_END)
    file.seek(max(0, end - 1))
    if end and file.read() != b"\n":
        file.seek(0)
        end = file.read().rfind(b"\n") + 1
        file.truncate(end)
    return end


def _encoded(line: Mapping[str, Any]) -> bytes:
    return json.dumps(plain(line), allow_nan=False).encode() + b"\n"


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
