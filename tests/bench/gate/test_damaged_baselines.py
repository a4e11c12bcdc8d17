"""No content of a baseline file makes the gate end in a traceback, whose exit code is "slower".

A good baseline is damaged where its structure is: each kind of value becomes each odd one, several
at once become some or go. Other cases are random bytes within its text, and texts that are no JSON
of this kind.
"""

import copy
import json
import math
import random
from typing import Any

import pytest

from bench.gate import baselines, collect, comparable, compare, history, launches
from bench.gate.launches import Launch
from bench.gate.verdicts import Exit
from tests.bench.gate.simulated_grid import save_baseline, write_grid

pytestmark = [pytest.mark.workers(1), pytest.mark.deadline(60)]

RANDOM = 150
"""Cases of several damages, and of random bytes."""

DEEP = 5000
READ = {"id", "device", "oversubscribed", "workers", "steps_per_round", "background_load", "rounds"}
"""What the gate reads of a cell's line."""


class Text(str):
    """JSON that `json.dumps` would not write: it stands in the file as it is."""


GONE = object()
ODD: list[Any] = [
    *(None, True, False, 0, 1, -1, 10**30, 1.5, 1e300, 5e-324, -0.0, "", "x", "1", "cpu", "cuda"),
    *([], {}, [None], [[1.0]], [[]], {"a": 1}, [1.0] * 9, "2030-01-01", "0001-01-01T00:00:00"),
    *("\ud800", "\0", "[/red]", "\n", "\x1b[2J", "9999-12-31T23:59:59-23:59", "cuda:99"),
    *(math.nan, math.inf, -math.inf, Text("9" * 400), Text("9" * 5000), Text("1e999")),
    *(Text("[" * 400 + "]" * 400), Text('{"a":' * 400 + "1" + "}" * 400)),
]


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


def scrambled(text, rng):
    """Change, insert or cut some bytes."""
    data = bytearray(text.encode())
    for _ in range(rng.randint(1, 8)):
        at = rng.randrange(len(data))
        data[at : at + rng.randint(0, 3)] = rng.randbytes(rng.randint(0, 3))
    return bytes(data[: rng.randrange(len(data))] if rng.random() < 0.1 else data)


def cases(content):
    for same in kinds(content):
        for value in (*ODD, GONE):
            tree = copy.deepcopy(content)
            replaced(tree, same[0], value)
            yield as_json(tree).encode()
    rng = random.Random(15)
    for _ in range(RANDOM):
        tree = copy.deepcopy(content)
        for _ in range(rng.randint(2, 4)):
            replaced(tree, rng.choice(rng.choice(kinds(tree))), rng.choice([*ODD, GONE]))
        yield as_json(tree).encode()
        yield scrambled(json.dumps(content), rng)
    for text in ("", "null", "[]", "1" * 5000, "[" * DEEP + "]" * DEEP, '{"a":' * DEEP, "\ufeff{}"):
        yield text.encode()


@pytest.fixture
def saved(project, monkeypatch):
    """A baseline of one cell, and launches that measure the same again and take no time."""
    write_grid(project, **dict.fromkeys("bcdef"))
    save_baseline()
    (path,) = project.glob(".benchmarks/*/*_main.json")
    again = baselines.read(path).launches

    def start(ranks, command, root, label="", number=0):
        assert all("\0" not in argument for argument in command)
        return Launch(dict(again[0].cells))

    monkeypatch.setattr(collect, "start", start)
    monkeypatch.setattr(launches, "disturbed", lambda load, workers: load > workers)
    return path


def test_no_content_of_a_file_is_a_traceback(saved, monkeypatch):
    whole = json.loads(saved.read_text())
    content = {key: whole[key] for key in ("datetime", "lockstep")}
    content["commit_info"] = {"id": "abcdef0", "dirty": True}
    for launch in content["lockstep"]["launches"]:
        launch["cells"] = [{key: line[key] for key in READ} for line in launch["cells"]]
    machine = {"cpu": "Abacus", "devices": ["cpu"], "world_size": 2}
    for module in (compare, comparable):
        monkeypatch.setattr(module, "fingerprint", lambda *a: machine)
    content["lockstep"]["fingerprint"] = machine
    monkeypatch.setattr("os.fsync", lambda file: None)
    refused, codes, looked = 0, [], set()
    others = saved.parents[2] / "history" / "machine"
    others.mkdir(parents=True)
    for number in range(1, 6):
        (others / f"{number:04}_main.json").write_text(json.dumps(content))
    for case in cases(content):
        saved.write_bytes(case)
        try:
            baselines.read(saved)
        except baselines.BaselineError as error:
            said = str(error)
        else:
            said = ""
        if said:
            refused += 1
            assert saved.name in said.encode().decode()
            assert len(said) < 500
            continue
        (others / "0006_main.json").write_bytes(case)
        looked.add(history.main(["--storage", str(others.parent), "--json", "h"]))
        # What is read can be judged, and every report of it be written.
        code = compare.main([str(saved), "--json", "j", "--junit", "x", "--markdown", "m"])
        codes.append(code)
        assert code in (Exit.HELD, Exit.FAILED, Exit.INCOMPARABLE, Exit.INCONCLUSIVE)
        for path in ("j", "x", "m"):
            (saved.parents[2] / path).read_text(encoding="utf-8")
    assert min(refused, len(codes)) > 100, "the damage is too small or too large to prove much"
    assert {Exit.HELD, Exit.INCOMPARABLE, Exit.INCONCLUSIVE} <= set(codes)
    assert Exit.USAGE not in looked
    assert Exit.HELD in looked


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
