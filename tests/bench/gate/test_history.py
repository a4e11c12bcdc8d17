"""The history of saved baselines, from end to end on simulated cells."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from bench.core.fingerprint import fingerprint
from bench.gate import history, launches
from bench.gate.baselines import FORMAT
from bench.gate.named_paths import training_options
from bench.gate.storage import STORAGE, next_file, saved_files
from bench.gate.verdicts import Exit
from bench.report.judged import Tracked
from strategies.records import read
from tests.bench.gate import fake_mpiexec
from tests.bench.gate.simulated_grid import GRID, save_baseline, simulated_start, write_grid

pytestmark = [pytest.mark.workers(1), pytest.mark.deadline(60)]

BEGIN = datetime(2026, 1, 5, tzinfo=UTC)


@pytest.fixture(autouse=True)
def seeded(monkeypatch):
    """Histories without a change show one in 1 of 100 cases: these here are always the same."""
    monkeypatch.setattr(fake_mpiexec, "RNG", np.random.default_rng(0))


def commit(number):
    return f"{number:02x}" * 20


def edit(number, change):
    """Change the content of a saved file."""
    (path,) = (file.path for file in saved_files(STORAGE) if file.number == number)
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def save(project, *grids, arguments=(), launches=3):
    """Save a baseline a week, the first with number 1, of grids with these changes."""
    machine = fingerprint(2, ["cpu"])
    for changes in grids:
        write_grid(project, **changes)
        with next_file(STORAGE, "main") as path:
            number = int(path.name.partition("_")[0])
            cells = [simulated_start(2, [], project).cells.values() for _ in range(launches)]
            content = {
                "datetime": (BEGIN + timedelta(weeks=number - 1)).isoformat(),
                "commit_info": {"id": commit(number), "dirty": False},
                "lockstep": {
                    "format": FORMAT,
                    "fingerprint": machine,
                    "arguments": list(arguments),
                    "launches": [{"cells": list(launch)} for launch in cells],
                },
            }
            path.write_text(json.dumps(content))


def looked(*arguments):
    """Run the program; return its exit code, the cells, and the whole report."""
    code = history.main(["--json", "history.json", *arguments])
    report = json.loads(Path("history.json").read_text())
    assert report["exit_code"] == code
    return code, {cell["cell"]: cell for cell in report["cells"]}, report


def outcomes(cells):
    return {name: cell["outcome"] for name, cell in cells.items()}


SAME: list[dict] = [{}] * 9
SLOWED: list[dict] = [{}] * 5 + [{"c": {"parallel": 1.54}}] * 4


def test_every_cell_leaves_a_record(project):
    """With the speedups of its baselines, and the place of the step."""
    save(project, *SLOWED)
    _, cells, _ = looked()
    (path,) = Path(".benchmarks", "lockstep").glob("*.jsonl")
    kept = {each.cell: each for each in read(path).records if isinstance(each, Tracked)}
    assert {name: each.outcome for name, each in kept.items()} == outcomes(cells)
    (change,) = cells["c"]["changes"]
    assert [kept["c"].baselines[at] for at in kept["c"].steps] == [change["first"]["name"]]
    before, after = kept["c"].speedups[:5], kept["c"].speedups[5:]
    assert 1.05 < np.mean(before) / np.mean(after) < 1.15
    assert kept["c"].fitted[0] == pytest.approx(np.mean(before), rel=0.02)
    assert kept["c"].commits == [commit(number) for number in range(1, 10)]


def test_baselines_of_the_same_code_are_green(project):
    save(project, *SAME)
    code, cells, report = looked()
    assert (code, outcomes(cells)) == (0, dict.fromkeys(GRID, "pass"))
    assert [cell["baselines"] for cell in cells.values()] == [9] * 6
    assert [cell["changes"] for cell in cells.values()] == [[]] * 6
    assert report["summary"].startswith("held: 6 cells in 9 baselines, changes in 0 of them")
    assert "a step of" in report["power"]


def test_what_bench_mpi_saves_is_read(project):
    for _ in range(5):
        save_baseline()
    code, cells, report = looked()
    assert (code, outcomes(cells)) == (0, dict.fromkeys(GRID, "pass"))
    assert [len(report["baselines"]), report["left_out"]] == [5, []]
    assert [baseline["launches"] for baseline in report["baselines"]] == [3] * 5


def test_a_step_is_named_with_its_baseline_and_its_commit(project, capsys):
    save(project, *SLOWED)
    code, cells, _ = looked()
    assert code == Exit.FAILED
    assert outcomes(cells) == dict.fromkeys(GRID, "pass") | {"c": "slower"}
    (change,) = cells["c"]["changes"]
    assert change["kind"] == "step"
    assert (change["before"]["name"], change["first"]["name"]) == ("0005_main", "0006_main")
    assert change["first"]["commit"] == commit(6)
    assert change["first"]["saved"].startswith("2026-02-09")
    assert (change["earliest"], change["latest"]) == ("0006_main", "0006_main")
    assert change["time_low"] < 0.1 < change["time_high"]
    assert change["time_low"] > 0.07
    assert change["parallel_ratio"] == pytest.approx(1.1, abs=0.05)
    assert cells["c"]["slower_than_best"] == pytest.approx(0.1, abs=0.03)
    said = " ".join(capsys.readouterr().out.split())
    assert f"in 0006_main (commit {commit(6)[:9]}, 2026-02-09), after 0005_main" in said


def test_a_drift_is_found_that_no_comparison_with_one_baseline_shows(project):
    save(project, *({"c": {"parallel": 1.4 * 1.02**week}} for week in range(8)))
    code, cells, _ = looked()
    assert (code, cells["c"]["outcome"]) == (Exit.FAILED, "slower")
    (change,) = cells["c"]["changes"]
    assert change["kind"] == "drift"
    assert change["time_low"] < 1.02**7 - 1 < change["time_high"]
    assert change["time_low"] > 0.1
    assert (change["before"]["name"], change["first"]["name"]) == ("0001_main", "0008_main")


def test_a_drift_upwards_is_faster(project):
    save(project, *({"c": {"parallel": 1.4 / 1.02**week}} for week in range(8)))
    code, cells, _ = looked()
    assert (code, cells["c"]["outcome"]) == (Exit.HELD, "faster")
    assert cells["c"]["changes"][0]["time_high"] < -0.08


def test_a_slowdown_that_was_mended_is_shown_and_is_no_failure(project):
    save(project, *[{}] * 4, *[{"c": {"parallel": 1.6}}] * 4, *[{}] * 4)
    code, cells, _ = looked()
    assert (code, cells["c"]["outcome"]) == (Exit.HELD, "pass")
    assert [each["first"]["name"] for each in cells["c"]["changes"]] == ["0005_main", "0009_main"]
    assert cells["c"]["slower_than_best"] == pytest.approx(0, abs=0.02)


def test_a_slowdown_after_a_gain_counts_from_the_best(project):
    save(project, *[{"c": {"parallel": 1.7}}] * 5, *[{}] * 5, *[{"c": {"parallel": 1.54}}] * 5)
    code, cells, _ = looked()
    assert (code, cells["c"]["outcome"]) == (Exit.FAILED, "slower")
    assert cells["c"]["slower_than_best"] == pytest.approx(0.1, abs=0.03)


def test_a_slowdown_within_the_tolerance_is_shown_and_passes(project):
    save(project, *SLOWED)
    code, cells, _ = looked("--tolerance", "20%")
    assert (code, cells["c"]["outcome"]) == (Exit.HELD, "pass")
    assert len(cells["c"]["changes"]) == 1


def test_a_faster_sequential_arm_is_named(project):
    save(project, *[{}] * 5, *[{"b": {"sequential": 1.7, "parallel": 1.4}}] * 4)
    code, cells, _ = looked()
    assert (code, cells["b"]["outcome"]) == (Exit.FAILED, "sequential arm faster")


def test_the_arm_that_counts_is_the_one_that_changed_since_the_best(project):
    """The sequential arm got faster long ago, which was made up for; now the parallel one fell."""
    faster = {"b": {"sequential": 1.6, "parallel": 1.4}}
    best = {"b": {"sequential": 1.6, "parallel": 1.0}}
    slow = {"b": {"sequential": 1.6, "parallel": 1.1}}
    save(project, *[{}] * 5, *[faster] * 5, *[best] * 5, *[slow] * 5)
    code, cells, _ = looked()
    assert (code, cells["b"]["outcome"]) == (Exit.FAILED, "slower")


def test_what_is_judged_can_start_later(project):
    """So that a slowdown that was accepted does not fail for ever."""
    save(project, *[{"c": {"parallel": 1.2}}] * 3, *[{}] * 6)
    assert looked()[0] == Exit.FAILED
    for start in ("4", "2026-01-25"):
        code, cells, report = looked("--since", start)
        assert (code, outcomes(cells)) == (Exit.HELD, dict.fromkeys(GRID, "pass"))
        assert [one["name"] for one in report["baselines"]] == [
            f"{n:04}_main" for n in range(4, 10)
        ]
        assert report["left_out"] == ["older than --since"] * 3
    code, cells, report = looked("--since", "2027-01-01")
    assert (code, cells, report["baselines"]) == (Exit.INCONCLUSIVE, {}, [])


def test_three_baselines_are_too_few_and_it_says_so(project, capsys):
    save(project, *[{}] * 3)
    code, cells, _ = looked()
    assert code == Exit.INCONCLUSIVE
    assert set(outcomes(cells).values()) == {"inconclusive"}
    said = " ".join(capsys.readouterr().out.split())
    assert (
        "3 baselines have 3 undisturbed launches of this cell, and 5 such baselines are needed"
        in said
    )


def test_launches_of_one_baseline_are_not_baselines(project):
    """Twelve launches on three days are three samples."""
    save(project, *[{}] * 2, {"c": {"parallel": 1.54}}, launches=4)
    code, cells, _ = looked()
    assert (code, cells["c"]["baselines"]) == (Exit.INCONCLUSIVE, 3)


def test_days_of_the_machine_are_no_change(project):
    """All launches of a day share its state: their agreement says nothing about other days."""
    days = [1.0, 1.05, 0.97, 1.04, 1.0, 0.96, 1.03, 0.99, 1.05, 0.98]
    grids = [{cell: {"parallel": 1.4 * day} for cell in GRID} for day in days]
    save(project, *grids, launches=6)
    code, cells, _ = looked()
    assert [cell["changes"] for cell in cells.values()] == [[]] * 6
    assert code != Exit.FAILED


def test_nothing_that_is_saved_is_wrong_usage(project, capsys):
    assert history.main([]) == Exit.USAGE
    assert "nox -s bench_mpi -- --save NAME" in " ".join(capsys.readouterr().out.split())


def set_machine(**keys):
    return lambda content: content["lockstep"]["fingerprint"].update(keys)


def test_baselines_of_other_machines_are_left_out_and_counted(project, capsys):
    """Slower ones of another processor are no slowdown of this one."""
    save(project, *[{}] * 6, *[{"c": {"parallel": 2.0}}] * 5)
    for number in range(7, 12):
        edit(number, set_machine(cpu="Abacus"))
    code, cells, report = looked()
    assert (code, outcomes(cells)) == (Exit.HELD, dict.fromkeys(GRID, "pass"))
    assert len(report["baselines"]) == 6
    assert len(report["left_out"]) == 5
    said = " ".join(capsys.readouterr().out.split())
    assert "5 baselines left out: cpu: Abacus before" in said


def test_only_other_machines_are_incomparable(project):
    save(project, *[{}] * 6)
    for number in range(1, 7):
        edit(number, set_machine(cpu="Abacus"))
    code, cells, report = looked()
    assert (code, cells) == (Exit.INCOMPARABLE, {})
    assert report["summary"].startswith("incomparable: 0 cells in 0 baselines (6 left out)")


def test_another_kernel_is_said_and_left_in(project, capsys):
    save(project, *[{}] * 6)
    edit(2, set_machine(kernel="1.0"))
    edit(3, set_machine(kernel="1.0"))
    code, _, report = looked()
    assert (code, len(report["baselines"])) == (Exit.HELD, 6)
    assert "kernel: 1.0 before" in report["remarks"][0]
    assert "(2 baselines, compared all the same)" in report["remarks"][0]


def test_other_numbers_of_ranks_are_histories_of_their_own(project):
    save(project, *[{}] * 6)
    for number in (1, 2):
        edit(number, set_machine(world_size=4))
    _, cells, report = looked()
    assert {cell["baselines"] for cell in cells.values()} == {4}
    assert report["left_out"] == ["world size: 4 before, 2 now"] * 2
    code, cells, report = looked("-n", "4")
    assert {cell["baselines"] for cell in cells.values()} == {2}
    assert code == Exit.INCONCLUSIVE
    assert looked("-n", "3")[0] == Exit.INCOMPARABLE


def test_other_training_is_left_out_and_another_choice_of_cells_is_not(project):
    save(project, *[{}] * 4, arguments=["--quick"])
    save(project, {}, {}, arguments=["-k", "mlp", "-q", "--tb=short"])
    save(project, {"c": {"parallel": 2.0}}, arguments=["--optimizer", "mine.py:make"])
    save(project, {})
    _, cells, report = looked()
    assert {cell["baselines"] for cell in cells.values()} == {7}
    assert report["left_out"] == ["options of pytest: --optimizer mine.py:make before, none now"]


@pytest.mark.parametrize(
    ("arguments", "kept"),
    [
        (["--quick", "bench/test_speedup.py", "-k", "mlp and not 64", "-v", "-rA"], []),
        (["--device", "cuda", "-x"], ["--device", "cuda"]),
        (["--optimizer=mine.py:make", "--deadline", "9"], ["--optimizer=mine.py:make"]),
        (["--data"], ["--data"]),
        (["-kmlp", "--new-option"], ["--new-option"]),
    ],
)
def test_which_arguments_change_what_is_trained(arguments, kept):
    assert training_options(arguments) == kept


def test_cells_that_only_some_baselines_have(project):
    save(project, *[{"f": None}] * 3, *[{}] * 5, {"a": None})
    code, cells, _ = looked()
    assert code == Exit.HELD
    counts = {name: cell["baselines"] for name, cell in cells.items()}
    assert counts == dict.fromkeys("bcde", 9) | {"a": 8, "f": 6}


def test_disturbed_launches_do_not_count(project, monkeypatch):
    save(project, *[{}] * 6)

    def busy(content):
        for launch in content["lockstep"]["launches"][:1]:
            launch["cells"][0]["background_load"] = 1.0

    edit(2, busy)
    monkeypatch.setattr(launches, "disturbed", lambda load, workers: load > 0.5)
    _, cells, _ = looked()
    assert {name: cell["baselines"] for name, cell in cells.items()} == (
        dict.fromkeys("bcdef", 6) | {"a": 5}
    )


def test_oversubscribed_cells_are_shown_and_do_not_fail(project):
    crowd = {"f": {"parallel": 2.0, "oversubscribed": True}}
    slow = {"f": {"parallel": 4.0, "oversubscribed": True}}
    save(project, *[crowd] * 5, *[slow] * 4)
    code, cells, _ = looked()
    assert (code, cells["f"]["outcome"]) == (Exit.HELD, "not gated")
    assert [each["first"]["name"] for each in cells["f"]["changes"]] == ["0006_main"]


def test_a_cell_too_noisy_to_tell_is_no_pass(project):
    save(project, *({"d": {"parallel": 1.4 * factor}} for factor in (1, 2, 1, 2, 1, 2)))
    code, cells, _ = looked()
    assert (code, cells["d"]["outcome"]) == (Exit.INCONCLUSIVE, "inconclusive")
    assert "too noisy" in cells["d"]["reason"]


def test_a_file_that_cannot_be_read_is_named_and_left_out(project, capsys):
    save(project, *[{}] * 7)
    (path,) = project.glob(".benchmarks/*/0003_main.json")
    path.write_text("{")
    code, _, report = looked()
    assert (code, len(report["baselines"])) == (Exit.HELD, 6)
    assert "0003_main.json is damaged" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("info", [None, {}, [], {"id": None}, {"id": "unknown"}, {"id": "é" * 40}])
def test_a_baseline_without_a_commit(project, info, capsys):
    save(project, *SLOWED)
    edit(6, lambda content: content.update(commit_info=info))
    _, cells, _ = looked()
    (change,) = cells["c"]["changes"]
    assert change["first"]["commit"] is None
    assert "in 0006_main (commit not known, " in " ".join(capsys.readouterr().out.split())


def test_a_commit_with_changes_says_so(project, capsys):
    save(project, *SLOWED)
    edit(6, lambda content: content["commit_info"].update(dirty=True))
    _, cells, _ = looked()
    assert cells["c"]["changes"][0]["first"]["uncommitted_changes"] is True
    assert f"{commit(6)[:9]} with changes" in " ".join(capsys.readouterr().out.split())


def test_time_and_not_the_number_is_the_order(project):
    save(project, *SLOWED)
    for number in range(1, 10):  # the machine's clock ran the other way
        when = (BEGIN - timedelta(weeks=number)).isoformat()
        edit(number, lambda content, when=when: content.update(datetime=when))
    _, cells, _ = looked()
    (change,) = cells["c"]["changes"]
    assert (change["before"]["name"], change["first"]["name"]) == ("0006_main", "0005_main")
    assert change["time_high"] < 0


def test_only_the_cells_that_are_asked_for(project, capsys):
    save(project, *SLOWED)
    assert outcomes(looked("-k", "B", "-k", "d")[1]) == {"b": "pass", "d": "pass"}
    assert history.main(["-k", "mlp"]) == Exit.USAGE
    said = " ".join(capsys.readouterr().out.split())
    assert "no cell has mlp in its id; there are: a, b, c, d, e, f" in said


@pytest.mark.parametrize(
    "wrong", [["--since", "soon"], ["--since", "2026-13-01"], ["-n", "0"], ["x"]]
)
def test_refuses_what_it_does_not_know(wrong, capsys):
    with pytest.raises(SystemExit) as ended:
        history.main(wrong)
    assert ended.value.code == Exit.USAGE


def test_the_worst_come_first(project, capsys):
    save(project, *SLOWED)
    looked()
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [row[0] for row in rows if row and row[0] in GRID] == list("cabdef")
