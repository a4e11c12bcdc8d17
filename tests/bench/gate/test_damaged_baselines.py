"""No content of a baseline file makes the gate end in a traceback, whose exit code is "slower".

A good baseline is damaged where its structure is: a value becomes an odd one or goes, or several
do. In other cases its bytes are damaged, or the file is no JSON of this kind.
"""

import contextlib
import copy
import io
import json
import math
from pathlib import Path
from typing import Any
from unittest import mock

import mpi4py
import numpy as np
import pytest

mpi4py.rc.initialize = False  # not in the process that reads damaged files

from bench.gate import baselines, collect, comparable, compare, history, launches, verdicts  # noqa: E402
from bench.gate.baselines import Baseline, BaselineError  # noqa: E402
from bench.gate.launches import Launch  # noqa: E402
from bench.gate.verdicts import Exit  # noqa: E402
from tests.bench.gate.simulated_grid import save_baseline  # noqa: E402
from tests.support import fuzz  # noqa: E402
from tests.support.fuzz import Target  # noqa: E402

pytestmark = pytest.mark.workers(1)

NAME = "0001_main.json"
MACHINE = {"cpu": "Abacus", "devices": ["cpu"], "world_size": 2}


class Text(str):
    """JSON that `json.dumps` would not write: it stands in the file as it is."""


GONE = object()
ODD: list[Any] = [
    *(None, True, False, 0, 1, -1, 10**30, 1.5, 1e300, 5e-324, -0.0, "", "x", "1", "cpu", "cuda"),
    *("first", "second"),  # the id of another cell
    *([], {}, [None], [[1.0]], [[]], {"a": 1}, [1.0] * 9, "2030-01-01", "0001-01-01T00:00:00"),
    *("\ud800", "\0", "[/red]", "\n", "\x1b[2J", "9999-12-31T23:59:59-23:59", "cuda:99"),
    *(math.nan, math.inf, -math.inf, Text("9" * 400), Text("9" * 5000), Text("1e999")),
    *(Text("[" * 400 + "]" * 400), Text('{"a":' * 400 + "1" + "}" * 400)),
]
DEEP = 5000
OTHER = ("", "null", "[]", "1" * 5000, "[" * DEEP + "]" * DEEP, '{"a":' * DEEP, "\ufeff{}")
"""Files that are no baseline."""


def places(value, way=()):
    """List the ways to all values within a tree of lists and dicts."""
    inner = value.items() if isinstance(value, dict) else ()
    inner = enumerate(value) if isinstance(value, list) else inner
    found = [way] if way else []
    return found + [place for key, part in inner for place in places(part, (*way, key))]


def kinds(tree):
    """Group the places in a tree by their keys: launches, cells and rounds are alike."""
    found = {}
    for place in places(tree):
        found.setdefault(tuple("" if type(k) is int else k for k in place), []).append(place)
    return list(found.values())


def replaced(tree, place, value):
    """Put a value into a place of the tree; `GONE` removes what is there."""
    *way, last = place
    for key in way:
        tree = tree[key]
    if value is GONE:
        del tree[last]
    else:
        tree[last] = copy.deepcopy(value)


def as_json(tree):
    """Write a tree with the parts that are `Text` as they are."""
    raw = []

    def marked(value):
        if isinstance(value, Text):
            raw.append(value)
            return f"<raw {len(raw) - 1}>"
        if isinstance(value, dict):
            return {key: marked(inner) for key, inner in value.items()}
        return [marked(inner) for inner in value] if isinstance(value, list) else value

    text = json.dumps(marked(tree))
    for number, part in enumerate(raw):
        text = text.replace(f'"<raw {number}>"', part)
    return text


def damage(sound: bytes, rng: np.random.Generator) -> bytes:
    """Replace or remove values, in most cases one; or damage the bytes, or the whole."""

    def choice(values):
        return values[rng.integers(len(values))]

    way = rng.random()
    if way < 0.25:
        return fuzz.damage(sound, rng)
    if way < 0.27:
        return choice(OTHER).encode()
    tree = json.loads(sound)
    for _ in range(1 if way < 0.9 else rng.integers(2, 5)):
        if same := kinds(tree):
            replaced(tree, choice(choice(same)), choice([*ODD, GONE]))
    return as_json(tree).encode()


def launch(number: int) -> Launch:
    """Two cells, with what the gate reads of them, and the test that a fresh launch names."""
    cells = {}
    for cell, seconds in (("first", 0.014), ("second", 0.01)):
        rounds = {
            arm: [time * (1 + 0.001 * ((7 * number + 3 * i) % 5)) for i in range(9)]
            for arm, time in (("sequential", 0.02), ("parallel", seconds))
        }
        counts = {"workers": 1, "steps_per_round": 10, "background_load": 0.0, "rounds": rounds}
        named = {"id": cell, "nodeid": f"bench/test_fake.py::test_cell[{cell}]", "device": "cpu"}
        cells[cell] = named | {"oversubscribed": False} | counts
    return Launch(cells)


def write(folder: Path) -> list[Path]:
    path = folder / NAME
    saved = {
        "format": baselines.FORMAT,
        "fingerprint": MACHINE,
        "arguments": ["--quick"],
        "launches": [{"cells": list(launch(number).cells.values())} for number in range(3)],
    }
    path.write_text(json.dumps({"datetime": "2026-11-01T12:00:00+00:00", "lockstep": saved}))
    return [path]


def judged(path: Path) -> int:
    """Compare a baseline with launches that find no change, and read every report of it."""

    def start(ranks, command, root, label="", number=0):
        assert all("\0" not in argument for argument in command)
        return launch(0)

    kept = path.with_name("kept.jsonl")
    reports = [path.with_name(f"report.{kind}") for kind in ("json", "junit", "markdown")]
    options = [text for report in reports for text in (f"--{report.suffix[1:]}", str(report))]
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        mock.patch.object(collect, "start", start),
        mock.patch.object(launches, "disturbed", lambda load, workers: load > workers),
        mock.patch.object(compare, "fingerprint", return_value=MACHINE),
        mock.patch.object(verdicts, "new_path", return_value=kept),
        mock.patch("os.fsync"),
    ):
        code = compare.main([str(path), *options])
    for report in reports:
        report.read_text(encoding="utf-8")
        report.unlink()
    kept.unlink(missing_ok=True)
    return code


def read(folder: Path) -> tuple[Baseline, int]:
    """Read the baseline, and judge launches by it; return it, and the exit code."""
    found = baselines.read(folder / NAME)
    return found, judged(found.path)


def right(found: tuple[Baseline, int], _: object, folder: Path) -> bool:
    """Every cell that stands in the file is there as it stands, and the gate has a verdict."""
    baseline, code = found
    said = json.loads((folder / NAME).read_bytes())["lockstep"]
    lines = [list(launch.cells.values()) for launch in baseline.launches]
    return (
        code in (Exit.HELD, Exit.FAILED, Exit.INCOMPARABLE, Exit.INCONCLUSIVE)
        and json.dumps(lines) == json.dumps([launch["cells"] for launch in said["launches"]])
        and json.dumps(baseline.fingerprint) == json.dumps(said["fingerprint"])
        and baseline.arguments == said["arguments"]
    )


TARGETS = {"baseline": Target(write, read, (BaselineError,), right, damage)}


@pytest.mark.deadline(3600)  # for the number of cases that a user asks for; usually seconds
def test_damaged_baselines() -> None:
    fuzz.check(__name__, "baseline", fuzz.CASES)


def test_no_damage_keeps_the_history_from_its_end(tmp_path: Path, monkeypatch) -> None:
    """A baseline that can be read is looked at among sound ones, or left out with the reason."""
    monkeypatch.chdir(tmp_path)  # records of histories go into the working directory
    machine = tmp_path / "machine"
    machine.mkdir()
    (first,) = write(machine)
    sound, codes, path = first.read_bytes(), set(), first.with_name("0006_main.json")
    for number in range(2, 6):
        first.with_name(f"000{number}_main.json").write_bytes(sound)
    with mock.patch.object(comparable, "fingerprint", return_value=MACHINE):
        for case in range(300):
            path.write_bytes(damage(sound, np.random.default_rng(case)))
            arguments = ["--storage", str(tmp_path), "--json", str(tmp_path / "found.json")]
            codes.add(history.main(arguments))
            json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    assert codes <= {Exit.HELD, Exit.FAILED, Exit.INCOMPARABLE, Exit.INCONCLUSIVE}
    assert Exit.HELD in codes


def test_the_id_of_a_cell_is_text_and_no_markup(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    machine = tmp_path / "machine"
    machine.mkdir()
    (path,) = write(machine)
    odd = path.read_bytes().replace(b'"first"', b'"[/red]"')
    for number in range(1, 7):
        path.with_name(f"000{number}_main.json").write_bytes(odd)
    with mock.patch.object(comparable, "fingerprint", return_value=MACHINE):
        history.main(["--storage", str(tmp_path)])
    assert "[/red]" in capsys.readouterr().out


def test_damages_are_neither_too_small_nor_too_large_to_prove_much(tmp_path: Path) -> None:
    (path,) = write(tmp_path)
    sound, codes, refused = path.read_bytes(), [], []
    for case in range(600):
        path.write_bytes(damage(sound, np.random.default_rng(case)))
        try:
            codes.append(read(tmp_path)[1])
        except BaselineError as error:
            refused.append(str(error))
    assert min(len(refused), len(codes)) > 60
    assert max(map(len, refused)) < 500
    assert {Exit.HELD, Exit.INCOMPARABLE, Exit.INCONCLUSIVE} <= set(codes)


@pytest.mark.parametrize("name", ["cuda", "cuda:99", "mps", "banana"])
def test_a_baseline_of_an_accelerator_that_is_not_here_is_incomparable(
    project, monkeypatch, name, capsys
):
    """Also where torch was built without it."""
    monkeypatch.setattr("nn.torch.model.devices", lambda: ["cpu"])
    save_baseline()
    (path,) = project.glob(".benchmarks/*/*_main.json")
    content = json.loads(path.read_text())
    for launch in content["lockstep"]["launches"]:
        for line in launch["cells"]:
            line["device"] = name
    content["lockstep"]["fingerprint"]["devices"] = [f"{name} (Abacus)"]
    path.write_text(json.dumps(content))
    assert compare.main(["main"]) == Exit.INCOMPARABLE
    said = " ".join(capsys.readouterr().out.split())
    assert f"devices: ['{name} (Abacus)'] before, ['{name} (not here)'] now" in said
