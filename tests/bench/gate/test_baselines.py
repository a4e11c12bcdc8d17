"""Baselines: saved, found again, and refused where they are damaged."""

import json
import subprocess
import sys

import pytest

from bench.gate import baselines, collect, compare, launches
from tests.bench.gate.simulated_grid import GRID, judged, save_baseline, write_grid

pytestmark = [pytest.mark.workers(1), pytest.mark.deadline(60)]


def test_is_readable_by_pytest_benchmark(project):
    save_baseline()
    command = [sys.executable, "-m", "pytest_benchmark", "compare", "0001"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert all(f"\n{name} " in done.stdout for name in GRID)


def test_the_newest_of_a_name_counts(project):
    save_baseline()
    write_grid(project, a={"parallel": 1.0})
    save_baseline()
    assert baselines.load(baselines.STORAGE, "main").path.name == "0002_main.json"
    assert judged() == (0, dict.fromkeys(GRID, "pass"))


def test_of_two_machines_this_one_counts(project):
    save_baseline()
    here = baselines.load(baselines.STORAGE, "main").path
    there = here.parent.with_name("another-machine")
    there.mkdir()
    (there / "0002_main.json").write_bytes(here.read_bytes())
    assert baselines.load(baselines.STORAGE, "main").path == here


def test_of_machines_that_are_all_others_the_newest_counts(project):
    save_baseline()
    here = baselines.load(baselines.STORAGE, "main").path
    for folder, number, year in (("x", 1, "2031"), ("y", 2, "2030")):
        path = here.parent.with_name(folder) / f"000{number}_main.json"
        path.parent.mkdir()
        content = json.loads(here.read_text()) | {"datetime": f"{year}-01-01T00:00:00+00:00"}
        path.write_text(json.dumps(content))
    here.unlink()
    assert baselines.load(baselines.STORAGE, "main").saved.year == 2031


def test_a_crash_keeps_what_was_measured(project):
    write_grid(project, d={"crash": True})
    assert baselines.main(["-n", "2", "--save", "main"]) == 1
    kept = baselines.load(baselines.STORAGE, "main")
    assert [list(launch.cells) for launch in kept.launches] == [["a", "b", "c"]] * 3


def test_an_interrupted_save_keeps_the_launches_before_it(project, monkeypatch):
    run, calls = collect.start, []

    def interrupted(*arguments, **options):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return run(*arguments, **options)

    monkeypatch.setattr(collect, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        baselines.main(["-n", "2", "--save", "main"])
    assert len(baselines.load(baselines.STORAGE, "main").launches) == 2


def test_a_write_that_fails_leaves_the_old_file(project):
    save_baseline()
    kept = baselines.load(baselines.STORAGE, "main")
    before = kept.path.read_bytes()
    kept.launches[0].cells["a"]["speedup"] = float("nan")
    with pytest.raises(ValueError, match="JSON"):
        baselines.write(kept.path, kept.launches, kept.fingerprint, kept.arguments)
    assert kept.path.read_bytes() == before
    assert [path.name for path in kept.path.parent.iterdir()] == [kept.path.name]


def test_too_few_launches_are_refused(project, capsys):
    with pytest.raises(SystemExit) as ended:
        baselines.main(["--save", "main", "--launches", "2"])
    assert ended.value.code == 2
    assert "at least 3 launches" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["../main", "a b", "", "-x", "*"])
def test_refuses_names_that_are_none(name):
    with pytest.raises(SystemExit):
        baselines.main([f"--save={name}"])


def test_says_what_there_is(project, capsys):
    save_baseline(name="other")
    assert compare.main(["main"]) == 2
    assert "saved there: other" in " ".join(capsys.readouterr().out.split())


def test_one_of_an_older_version_stays_comparable(project):
    """Before version 0.2.0, cells had no kind, and the background load was "foreign"."""
    save_baseline()
    (path,) = project.glob(".benchmarks/*/*_main.json")
    content = json.loads(path.read_text())
    for launch in content["lockstep"]["launches"]:
        for line in launch["cells"]:
            del line["kind"]
            line["foreign"] = line.pop("background_load")
    content["benchmarks"] = [_with_old_names(cell) for cell in content["benchmarks"]]
    path.write_text(json.dumps(content))
    assert judged() == (0, dict.fromkeys(GRID, "pass"))


def test_background_load_counts_in_a_baseline_of_any_version(project, monkeypatch):
    monkeypatch.setattr(launches, "disturbed", lambda load, workers: load > 0.1)
    save_baseline()
    (path,) = project.glob(".benchmarks/*/*_main.json")
    content = json.loads(path.read_text())
    first, second, _ = content["lockstep"]["launches"]
    first["cells"][0]["background_load"] = 0.6
    second["cells"][1]["foreign"] = 0.6
    del second["cells"][1]["background_load"]
    path.write_text(json.dumps(content))
    code, outcomes = judged()
    assert (code, outcomes["a"], outcomes["b"]) == (4, "inconclusive", "inconclusive")
    assert outcomes["c"] == "pass"


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda c: "{", "is damaged"),
        (lambda c: "[]", "is no baseline"),
        (lambda c: json.dumps(c | {"lockstep": None}), "is no baseline"),
        (lambda c: json.dumps(c | {"lockstep": c["lockstep"] | {"format": 9}}), "format 9"),
        (lambda c: json.dumps(c | {"lockstep": {"format": 1}}), "is damaged"),
        (
            lambda c: json.dumps(c).replace('"steps_per_round": 10', '"steps_per_round": 0'),
            "steps",
        ),
        (lambda c: json.dumps(_with_round(c, -1.0)), "round times"),
        (lambda c: json.dumps(_with_round(c, float("nan"))), "round times"),
        (lambda c: json.dumps(_with_round(c, None)), "unpaired"),
        (lambda c: json.dumps(c | {"lockstep": c["lockstep"] | {"launches": []}}), "is empty"),
    ],
    ids=[
        "cut off",
        "a list",
        "pytest-benchmark's own",
        "a later format",
        "no launches",
        "no steps",
        "negative time",
        "nan",
        "a round lost",
        "empty",
    ],
)
def test_a_damaged_or_foreign_file_is_named(project, damage, says):
    save_baseline()
    (path,) = project.glob(".benchmarks/*/*_main.json")
    path.write_text(damage(json.loads(path.read_text())))
    with pytest.raises(baselines.BaselineError, match=says) as refused:
        baselines.load(baselines.STORAGE, "main")
    assert path.name in str(refused.value)


def _with_old_names(cell):
    """Turn a cell's entry for pytest-benchmark into what it was before version 0.2.0."""
    extra = {key: value for key, value in cell["extra_info"].items() if key != "kind"}
    extra["foreign"] = extra.pop("background_load")
    return cell | {"extra_info": extra}


def _with_round(content, seconds):
    rounds = content["lockstep"]["launches"][1]["cells"][2]["rounds"]["parallel"]
    if seconds is None:
        rounds.pop()
    else:
        rounds[4] = seconds
    return content
