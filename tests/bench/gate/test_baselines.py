"""Baselines: saved, found again, and refused where they are damaged."""

import json
import subprocess
import sys

import pytest

from bench.gate import baselines, collect, compare, launches, storage
from bench.gate.launches import Launch
from bench.gate.storage import LONGEST_NAME, STORAGE, next_file, saved_files
from bench.gate.verdicts import Exit
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
    assert baselines.load(STORAGE, "main").path.name == "0002_main.json"
    assert judged() == (0, dict.fromkeys(GRID, "pass"))


def test_of_two_machines_this_one_counts(project):
    save_baseline()
    here = baselines.load(STORAGE, "main").path
    there = here.parent.with_name("another-machine")
    there.mkdir()
    (there / "0002_main.json").write_bytes(here.read_bytes())
    assert baselines.load(STORAGE, "main").path == here


def test_of_machines_that_are_all_others_the_newest_counts(project):
    save_baseline()
    here = baselines.load(STORAGE, "main").path
    for folder, number, year in (("x", 1, "2031"), ("y", 2, "2030")):
        path = here.parent.with_name(folder) / f"000{number}_main.json"
        path.parent.mkdir()
        content = json.loads(here.read_text()) | {"datetime": f"{year}-01-01T00:00:00+00:00"}
        path.write_text(json.dumps(content))
    here.unlink()
    assert baselines.load(STORAGE, "main").saved.year == 2031


def test_a_crash_keeps_what_was_measured(project):
    write_grid(project, d={"crash": True})
    assert baselines.main(["-n", "2", "--save", "main"]) == 1
    kept = baselines.load(STORAGE, "main")
    assert [list(launch.cells) for launch in kept.launches] == [["a", "b", "c"]] * 3


def test_the_machine_of_a_baseline_has_the_devices_of_its_cells(project, monkeypatch):
    run = collect.start

    def on_cuda(*arguments, **options):
        launch = run(*arguments, **options)
        return Launch({cell: line | {"device": "cuda"} for cell, line in launch.cells.items()})

    monkeypatch.setattr(collect, "start", on_cuda)
    save_baseline()
    (device,) = baselines.load(STORAGE, "main").fingerprint["devices"]
    assert device.startswith("cuda (")


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
    assert len(baselines.load(STORAGE, "main").launches) == 2


def test_a_write_that_fails_leaves_the_old_file(project):
    save_baseline()
    kept = baselines.load(STORAGE, "main")
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


@pytest.mark.parametrize("name", ["../main", "a b", "", "-x", "*", "a" * 201, "é" * 101])
def test_refuses_names_that_are_none(name, capsys):
    with pytest.raises(SystemExit) as ended:
        baselines.main([f"--save={name}"])
    assert ended.value.code == Exit.USAGE
    assert "a baseline's name" in capsys.readouterr().err


def test_the_longest_name_is_saved_and_found(project):
    save_baseline(name="a" * LONGEST_NAME)
    assert judged(name="a" * LONGEST_NAME)[0] == Exit.HELD


@pytest.mark.parametrize("name", ["*", "mai[n]", "ma?n", "", ".", "a" * 300, "main.json", "\0"])
def test_a_name_is_found_literally_or_not_at_all(project, name, capsys):
    save_baseline()
    assert compare.main([name]) == Exit.USAGE
    assert "(saved there: main)" in " ".join(capsys.readouterr().out.split())


def test_of_two_that_are_saved_at_once_each_is_kept(project, monkeypatch):
    """Another saver begins and ends while the first one's launch is running."""
    run, begun = collect.start, []

    def with_another(*arguments, **options):
        if not begun:
            begun.append("another")
            save_baseline(name="main")
        return run(*arguments, **options)

    monkeypatch.setattr(collect, "start", with_another)
    save_baseline(name="main")
    saved = saved_files(STORAGE)
    assert [(file.number, file.name) for file in saved] == [(1, "main"), (2, "main")]
    assert [len(baselines.read(file.path).launches) for file in saved] == [3, 3]


def test_a_number_is_given_to_one_saver_at_a_time(project, monkeypatch):
    monkeypatch.setattr(storage, "PATIENCE", 0.1)
    with next_file(STORAGE, "a") as first:
        with pytest.raises(TimeoutError), next_file(STORAGE, "b"):
            pass
        first.touch()
    with next_file(STORAGE, "b") as second:
        assert (first.name, second.name) == ("0001_a.json", "0002_b.json")


def test_numbers_grow_beyond_four_digits(project):
    save_baseline()
    (first,) = project.glob(".benchmarks/*/0001_main.json")
    first.rename(first.with_name("9999_main.json"))
    write_grid(project, a={"parallel": 1.0})
    save_baseline()
    save_baseline()
    assert [file.number for file in saved_files(STORAGE)] == [9999, 10000, 10001]
    assert baselines.load(STORAGE, "main").path.name == "10001_main.json"


def test_a_storage_that_cannot_be_written_is_named_before_any_launch(project, monkeypatch, capsys):
    (project / "file").touch()
    monkeypatch.setattr(collect, "start", None)
    code = baselines.main(["--save", "main", "--storage", "file/storage"])
    assert code == Exit.USAGE
    assert "file/storage" in capsys.readouterr().err


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
        (
            lambda c: json.dumps(c | {"lockstep": c["lockstep"] | {"format": 1}}),
            "format 1, .* all cells of their race",
        ),
        (lambda c: json.dumps(c | {"lockstep": {"format": baselines.FORMAT}}), "is damaged"),
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
        "cells that were no race",
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
        baselines.load(STORAGE, "main")
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


def test_a_machine_that_was_too_busy_is_said_and_is_no_success(project, monkeypatch, capsys):
    monkeypatch.setattr(launches, "disturbed", lambda load, workers: True)
    assert baselines.main(["-n", "2", "--save", "main"]) == Exit.INCONCLUSIVE
    assert "too busy, so these cells have fewer than 3 undisturbed" in capsys.readouterr().err


def test_times_of_launches_with_other_numbers_of_steps_are_comparable():
    line = {"steps_per_round": 10, "rounds": {"sequential": [4.0, 8.0], "parallel": [2.0, 3.0]}}
    assert launches.seconds_per_step(line) == ([0.4, 0.8], [0.2, 0.3])
