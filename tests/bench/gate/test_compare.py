"""Comparing with a baseline, from end to end on simulated cells."""

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from bench.core.fingerprint import EVER_SINCE
from bench.gate import collect, compare, launches
from bench.gate import verdicts as verdicts_of_gate
from bench.gate.verdicts import Exit
from strategies.records import read
from tests.bench.gate.simulated_grid import GRID, judged, save_baseline, verdicts, write_grid

pytestmark = [pytest.mark.workers(1), pytest.mark.deadline(60)]


def test_the_same_code_is_green(project):
    save_baseline()
    assert judged() == (0, dict.fromkeys(GRID, "pass"))


def test_a_slowed_cell_is_red_and_only_that_cell(project):
    save_baseline()
    write_grid(project, c={"parallel": 1.54})
    code, outcomes = judged()
    assert (code, outcomes.pop("c")) == (1, "slower")
    assert set(outcomes.values()) == {"pass"}


def test_fresh_launches_are_of_suspect_cells_only(project):
    save_baseline()
    write_grid(project, c={"parallel": 1.54})
    judged()
    assert verdicts()["c"]["launches"] == [3, 3, 5]
    assert verdicts()["a"]["launches"] == [3, 3, 0]


def test_a_larger_tolerance_lets_it_pass(project):
    save_baseline()
    write_grid(project, c={"parallel": 1.54})
    assert judged("--tolerance", "15%")[0] == 0


def test_a_vanished_cell_is_red(project):
    save_baseline()
    write_grid(project, d=None)
    code, outcomes = judged()
    assert (code, outcomes["d"]) == (1, "missing")


def test_a_launch_that_crashes_is_red_for_what_it_did_not_measure(project):
    save_baseline()
    write_grid(project, d={"crash": True})
    code, outcomes = judged()
    assert code == 1
    assert [outcomes[name] for name in "abcdef"] == ["pass"] * 3 + ["missing"] * 3


def test_a_cell_that_one_launch_of_several_did_not_measure_is_red(project, monkeypatch):
    """Later launches have enough of it, but the code crashes now and then."""
    save_baseline()
    start, launched = collect.start, []

    def crashes_once(*arguments, **options):
        launched.append(arguments)
        write_grid(project, d={"crash": True} if len(launched) == 1 else GRID["d"])
        return start(*arguments, **options)

    monkeypatch.setattr(collect, "start", crashes_once)
    code, outcomes = judged()
    assert len(launched) > 3, "launched again for what the first did not measure"
    assert code == 1
    assert [outcomes[name] for name in "abcdef"] == ["pass"] * 3 + ["missing"] * 3


def test_a_launch_that_fails_only_when_it_confirms_is_noted(project, monkeypatch):
    save_baseline()
    write_grid(project, c={"parallel": 1.54})
    start = collect.start

    def fails(ranks, command, root, label="", number=0):
        launch = start(ranks, command, root, label, number)
        again = any("[c]" in argument for argument in command)
        return replace(launch, failure="ended with code 9") if again else launch

    monkeypatch.setattr(collect, "start", fails)
    assert judged()[0] == 1
    report = json.loads(Path("report.json").read_text())
    assert (report["exit_code"], report["notes"]) == (1, ["a launch ended with code 9"] * 5)


def test_a_faster_sequential_arm_is_named(project):
    save_baseline()
    write_grid(project, b={"sequential": 1.7, "parallel": 1.4})
    code, outcomes = judged()
    assert (code, outcomes["b"]) == (1, "sequential arm faster")


def test_another_machine_is_incomparable(project):
    save_baseline()
    (path,) = project.glob(".benchmarks/*/*_main.json")
    content = json.loads(path.read_text())
    content["lockstep"]["fingerprint"]["cpu"] = "Abacus"
    path.write_text(json.dumps(content))
    assert judged() == (3, {})
    report = json.loads(Path("report.json").read_text())
    assert any("Abacus" in difference for difference in report["incomparable"])


def test_a_baseline_of_before_the_kernel_and_the_governor_were_recorded_is_comparable(project):
    save_baseline()
    (path,) = project.glob(".benchmarks/*/*_main.json")
    content = json.loads(path.read_text())
    machine = content["lockstep"]["fingerprint"]
    for key in set(machine) - EVER_SINCE:
        del machine[key]
    path.write_text(json.dumps(content))
    assert judged() == (0, dict.fromkeys(GRID, "pass"))
    notes = json.loads(Path("report.json").read_text())["notes"]
    assert any(note.startswith("kernel: not recorded before, ") for note in notes)
    assert all(note.endswith("now (compared all the same)") for note in notes)


def test_another_setting_of_mpi_is_incomparable(project, monkeypatch):
    monkeypatch.delenv("OMPI_MCA_btl", raising=False)
    save_baseline()
    monkeypatch.setenv("OMPI_MCA_btl", "tcp,self")
    assert judged() == (3, {})
    (said,) = json.loads(Path("report.json").read_text())["incomparable"]
    assert "OMPI_MCA_btl=tcp,self" in said


def test_another_number_of_ranks_is_incomparable(project):
    save_baseline()
    assert judged("-n", "3") == (3, {})


def test_background_load_makes_it_inconclusive(project, monkeypatch):
    save_baseline()
    monkeypatch.setattr(launches, "disturbed", lambda load, workers: True)
    code, outcomes = judged()
    assert code == 4
    assert set(outcomes.values()) == {"inconclusive"}


def test_oversubscribed_cells_do_not_fail(project):
    write_grid(project, f={"parallel": 2.0, "oversubscribed": True})
    save_baseline()
    write_grid(project, f={"parallel": 4.0, "oversubscribed": True})
    assert judged() == (0, dict.fromkeys("abcde", "pass") | {"f": "not gated"})


def test_a_grid_without_a_gated_cell_is_no_pass(project):
    only = {name: {"parallel": 2.0, "oversubscribed": True} for name in GRID}
    write_grid(project, **only)
    save_baseline()
    assert judged()[0] == 4


def test_reports_for_machines(project):
    save_baseline()
    write_grid(project, c={"parallel": 1.7}, d=None)
    arguments = ["--junit", "out/report.xml", "--markdown", "summary.md"]
    assert judged(*arguments)[0] == 1
    suite = ET.parse("out/report.xml").getroot()
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("6", "2", "0")
    failed = {case.get("name") for case in suite if case.find("failure") is not None}
    assert failed == {"c", "d"}
    summary = Path("summary.md").read_text()
    assert "failed: 4 pass, 1 slower, 1 missing" in summary
    table = [line.split(" | ")[0] for line in summary.splitlines() if line.startswith("| ")]
    assert table == ["| cell", *(f"| {cell}" for cell in "cdabef")]  # worst first


def test_the_worst_come_first(project, capsys):
    save_baseline()
    write_grid(project, c={"parallel": 1.7}, d=None)
    judged()
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [row[0] for row in rows if row and row[0] in GRID] == list("cdabef")


@pytest.mark.parametrize("text", ["0", "-5%", "100%", "five", "nan"])
def test_refuses_a_tolerance_that_is_none(text, capsys):
    with pytest.raises(SystemExit) as ended:
        compare.main(["main", f"--tolerance={text}"])
    assert ended.value.code == 2
    assert "expected a slowdown such as 5%" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--json", "--junit", "--markdown"])
@pytest.mark.parametrize("wrong", ["", "folder", "file/report", "a" * 300])
def test_a_report_that_cannot_be_written_is_named_before_any_launch(
    project, monkeypatch, capsys, option, wrong
):
    save_baseline()
    (project / "folder").mkdir()
    (project / "file").touch()
    monkeypatch.setattr(collect, "start", None)
    with pytest.raises(SystemExit) as ended:
        compare.main(["main", f"{option}={wrong}"])
    assert ended.value.code == Exit.USAGE
    assert wrong[:50] in capsys.readouterr().err


def test_a_report_that_is_there_stays_until_the_next_is_whole(project, monkeypatch):
    save_baseline()
    for name in ("report.json", "summary.md"):
        (project / name).write_text("old")
    reports = ["--json", "report.json", "--junit", "new/report.xml", "--markdown", "summary.md"]
    assert compare.main(["nowhere", *reports]) == Exit.USAGE
    assert [(project / name).read_text() for name in ("report.json", "summary.md")] == ["old"] * 2
    assert list((project / "new").iterdir()) == []
    assert compare.main(["main", *reports]) == Exit.HELD
    assert (project / "summary.md").read_text().startswith("old### Speedup gate: held")


@pytest.mark.parametrize(("slower", "code"), [(False, Exit.USAGE), (True, Exit.FAILED)])
def test_a_full_disk_hides_no_verdict(project, monkeypatch, slower, code, capsys):
    save_baseline()
    if slower:
        write_grid(project, d=None)

    def full(report, *paths):
        raise OSError(28, "No space left on device", "report.json")

    monkeypatch.setattr(verdicts_of_gate, "write", full)
    assert compare.main(["main", "--json", "report.json"]) == code
    said = " ".join(capsys.readouterr().out.split())
    assert "error: [Errno 28] No space left on device: 'report.json'" in said
    assert ("1 missing" in said) is slower


def test_verdicts_are_left_as_records(project):
    save_baseline()
    write_grid(project, c={"parallel": 1.54}, d=None)
    assert judged()[0] == 1
    (path,) = Path(".benchmarks", "lockstep").glob("*.jsonl")
    run = read(path)
    assert not run.damaged
    assert run.header["ranks"] == 2
    assert [record.cell for record in run.records] == list(verdicts())
    for record in run.records:
        verdict = verdicts()[record.cell]
        assert (record.before, record.after) == ("0001_main", "this run")
        assert (record.outcome, record.reason) == (verdict["outcome"], verdict["reason"])
        assert (record.ratio, record.low, record.high) == (
            verdict["ratio"],
            verdict["low"],
            verdict["high"],
        )
        assert (record.speedup_before, record.speedup_after) == (
            verdict["before"],
            verdict["after"],
        )
        assert record.launches == verdict["launches"]
        assert record.speedups == verdict["speedups"]
        if record.ratio is not None:
            assert list(map(len, record.speedups)) == record.launches
