"""Records come back as they were written, and survive a writer that is killed."""

import json
import math
import os
import subprocess
import sys
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nn.plain_json import INLINE
from strategies.records import Record, RunFile, Unknown, read
from tests.support.full_disk import full_disk

pytestmark = pytest.mark.workers(1)

ROOT = Path(__file__).parents[2]
HEADER = {"machine": "desk", "ranks": 2}


@dataclass(frozen=True)
class Place:
    row: int
    name: str = "here"


@dataclass(frozen=True)
class Everything(Record, kind="test-everything"):
    """A record with every type of field."""

    place: Place = field(metadata=INLINE)
    number: float
    maybe: float | None
    times: dict[str, list[float]]
    pair: tuple[int, float]
    many: tuple[float, ...]
    places: list[Place]
    anything: Any = None
    text: str = ""


EVERYTHING = Everything(
    place=Place(3),
    number=math.inf,
    maybe=-math.inf,
    times={"sequential": [0.1, math.inf]},
    pair=(1, math.inf),
    many=(1.5, 2.5),
    places=[Place(1, "there")],
    anything={"known": [1, 2.5, None, True]},
    text="ä\nb",
)


@dataclass(frozen=True)
class Numbered(Record, kind="test-numbered"):
    number: int
    size: float = 0.0


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_record_comes_back_as_the_same_object(tmp_path):
    file = RunFile(tmp_path / "new" / "run.jsonl", HEADER)
    for record in (EVERYTHING, Numbered(1, 2.5)):
        file.append(record)
    run = read(file.path)
    assert run.records == [EVERYTHING, Numbered(1, 2.5)]
    assert isinstance(run.records[0].places[0], Place)
    assert run.header == {"kind": "run", **HEADER}
    assert not run.damaged


def test_line_is_on_the_disk_when_append_returns(tmp_path, monkeypatch):
    synced = []
    file = RunFile(tmp_path / "run.jsonl", {})
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(file.path.read_text()))
    file.append({"kind": "other", "x": 1})
    assert synced[0] == '{"kind": "run"}\n{"kind": "other", "x": 1}\n'
    assert len(synced) == 2  # and the folder, where the file is new
    file.append({"kind": "other", "x": 2})
    assert synced[2:] == [synced[0] + '{"kind": "other", "x": 2}\n']


def test_keys_of_an_inline_field_stand_among_the_others():
    assert {"row": 3, "name": "here", "number": "inf"}.items() <= EVERYTHING.as_dict().items()


def test_a_line_is_plain_json(tmp_path):
    """Other programs can read it: no bare NaN or Infinity, one object a line."""
    file = RunFile(tmp_path / "run.jsonl", HEADER)
    file.append(Numbered(1, math.nan))
    text = file.path.read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    assert len(text.splitlines()) == 2
    (back,) = read(file.path).records
    assert math.isnan(back.size)


def test_numpy_becomes_numbers_and_lists(tmp_path):
    file = RunFile(tmp_path / "run.jsonl", HEADER)
    array = np.array([[1.5, np.nan], [np.inf, 2]], np.float32)
    file.append({"kind": "other", "one": np.float32(0.5), "n": np.int64(3), "array": array})
    (back,) = read(file.path).records
    assert back == Unknown("other", {"one": 0.5, "n": 3, "array": [[1.5, "nan"], ["inf", 2.0]]})


@pytest.mark.parametrize("value", [object(), {1: 2}, {3}, b"bytes", Place])
def test_what_cannot_be_written_is_refused_and_leaves_no_line(tmp_path, value):
    file = RunFile(tmp_path / "run.jsonl", HEADER)
    file.append(Numbered(1))
    with pytest.raises(TypeError, match="expected None, numbers"):
        file.append({"kind": "other", "value": value})
    file.append(Numbered(2))
    assert read(file.path).records == [Numbered(1), Numbered(2)]


def test_unknown_kinds_and_keys_are_kept_and_written_again(tmp_path):
    """A file of a newer version loses nothing when an older one writes it again."""
    newer = [
        {"kind": "of-tomorrow", "x": [1, {"y": "nan"}]},
        {**EVERYTHING.as_dict(), "new": [1, 2], "places": [{"row": 1, "name": "a", "z": 3}]},
    ]
    first, second = (RunFile(tmp_path / name, HEADER) for name in ("first", "second"))
    for line in newer:
        first.append(line)
    unknown, known = read(first.path).records
    assert unknown == Unknown("of-tomorrow", {"x": [1, {"y": "nan"}]})
    assert isinstance(known, Everything)
    assert known.other_keys == {"new": [1, 2]}
    for record in (unknown, known):
        second.append(record)
    assert lines(second.path)[1:] == newer


def test_a_key_with_a_default_may_be_missing():
    assert Numbered.from_dict({"kind": "test-numbered", "number": 1}) == Numbered(1)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("row", "3"),
        ("row", True),
        ("row", 1.5),
        ("number", "many"),
        ("number", None),
        ("maybe", [1.0]),
        ("times", [0.1]),
        ("times", {"sequential": 0.1}),
        ("pair", [1]),
        ("pair", "12"),
        ("many", 1.5),
        ("many", "123"),
        ("number", 10**400),
        ("number", "1_0"),
        ("places", [[["row", 1]]]),
        ("places", {"row": 1}),
        ("places", [3]),
        ("text", 3),
        ("text", None),
    ],
)
def test_a_value_of_another_type_is_damage(tmp_path, key, value):
    """A table that trusted it would end in a traceback, and show no other result either."""
    path = tmp_path / "run.jsonl"
    RunFile(path, HEADER).append(EVERYTHING)
    RunFile(path, HEADER).append(EVERYTHING.as_dict() | {key: value})
    run = read(path)
    assert run.records == [EVERYTHING]
    ((number, why),) = run.damaged
    assert (number, key in why) == (3, True)


def test_damaged_lines_are_named_and_skipped(tmp_path):
    path = tmp_path / "run.jsonl"
    good = json.dumps(Numbered(1).as_dict())
    bad = {
        b'{"kind": "test-numbered", "num': "Unterminated",
        b"[1, 2]": "expected an object",
        b'{"kind": "other", "x": NaN}': "NaN is not JSON",
        b'{"x": 1}': "the name of a kind",
        b'{"kind": ["cell"]}': "the name of a kind",
        b'{"kind": "test-numbered", "size": 1}': "number",
        b'{"kind": "test-numbered", "number": 1, "size": "large"}': "size: could not convert",
        b'{"kind": "test-numbered", "number": 1, "size": null}': "size:",
        b"\xff": "codec can't decode",
        b'{"kind": "run"}': "a second header",
        b'{"kind": "other", "x": ' + b"[" * 99_999 + b"]" * 99_999 + b"}": "nested too deeply",
    }
    path.write_bytes(b"".join(line + b"\n" + good.encode() + b"\n" for line in bad) + b'{"cut": ')
    run = read(path)
    assert run.records == [Numbered(1)] * len(bad)
    assert run.header == {}
    numbers, reasons = zip(*run.damaged, strict=True)
    assert numbers == (*range(1, 2 * len(bad), 2), 2 * len(bad) + 1)
    for reason, expected in zip(reasons, [*bad.values(), "cut off"], strict=True):
        assert expected in reason


def test_the_header_is_written_once_and_made_when_it_is_needed(tmp_path):
    made = []
    for number in range(2):
        file = RunFile(tmp_path / "run.jsonl", lambda: made.append(1) or HEADER)
        assert len(made) == min(number, 1)
        file.append(Numbered(number))
        file.append(Numbered(number))
    assert len(made) == 1
    assert [line["kind"] for line in lines(file.path)] == ["run", *["test-numbered"] * 4]


def test_a_line_that_was_cut_off_anywhere_is_dropped_and_never_continued(tmp_path):
    file = RunFile(tmp_path / "run.jsonl", HEADER)
    for number in range(3):
        file.append(Numbered(number))
    whole = file.path.read_bytes()
    for length in range(len(whole)):
        file.path.write_bytes(whole[:length])
        kept = max(0, whole[:length].count(b"\n") - 1)
        assert read(file.path).records == [Numbered(number) for number in range(kept)]
        file.append(Numbered(9))
        run = read(file.path)
        assert run.records == [*(Numbered(number) for number in range(kept)), Numbered(9)]
        assert not run.damaged
        assert run.header == {"kind": "run", **HEADER}


def test_only_files_are_read_and_written(tmp_path):
    """A pipe would wait for ever."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/full")):
        with pytest.raises(OSError, match=str(path)):
            read(path)
        with pytest.raises(OSError, match=str(path)):
            RunFile(path, HEADER).append(Numbered(1))


def test_a_full_disk_is_said_of_the_file_and_costs_only_the_last_line(tmp_path):
    file = RunFile(tmp_path / "run.jsonl", HEADER)
    file.append(Numbered(1))
    with full_disk(200), pytest.raises(OSError, match=r"run\.jsonl"):
        file.append({"kind": "other", "text": "x" * 1000})
    file.append(Numbered(2))
    assert read(file.path).records == [Numbered(1), Numbered(2)]


def test_two_writers_write_to_two_files(tmp_path):
    files = [RunFile(tmp_path / f"{i}.jsonl", {"writer": i}) for i in range(2)]
    for number in range(6):
        files[number % 2].append(Numbered(number))
    for i, file in enumerate(files):
        run = read(file.path)
        assert run.header["writer"] == i
        assert [record.number for record in run.records] == list(range(i, 6, 2))


def test_a_kind_has_one_class():
    with pytest.raises(ValueError, match="is taken by Numbered"):

        class Another(Record, kind="test-numbered"):
            pass


def test_records_survive_a_kill_at_any_moment(tmp_path):
    """100 writers of one file: what each had reported as appended is there, in order."""
    path = tmp_path / "run.jsonl"
    module = "tests.strategies.killed_writer"
    command = [sys.executable, "-m", module, str(path), "100"]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    reported = [int(count) for count in output.split()]
    assert len(reported) == 100
    assert sum(reported) >= 50
    RunFile(path, {}).append(Numbered(7))

    run = read(path)
    *numbered, last = run.records
    assert last == Numbered(7)
    assert not run.damaged
    assert run.header == {"kind": "run", "command": "killed_writer"}
    found = dict.fromkeys(range(100), 0)
    for writer, records in groupby(map(attrgetter("keys"), numbered), lambda keys: keys["writer"]):
        numbers = [keys["number"] for keys in records]
        assert numbers == list(range(len(numbers)))
        found[writer] = len(numbers)
    # The last line may be on the disk without its writer having come to say so.
    for writer, count in enumerate(reported):
        assert found[writer] in (count, count + 1), f"writer {writer} had reported {count}"
