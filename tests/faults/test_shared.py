"""With --share each test runs once, and a fault on one rank fails only the test it was in."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.faults.launch import PLANTED, Launch, launch, mpiexec

DEADLINE = 1.0
# The tests besides test_fault; FOR_ALL are the ones that need all ranks, if none has died.
OTHERS = (
    *("test_once", "test_side_by_side", "test_after", "test_alone", "test_together"),
    "test_marks_for_warnings_count",
    *("test_too", "test_outside_too", "test_together_too"),
)
FOR_ALL = ("test_both", "test_once_for_all")

FAULTS = {  # what the report shows
    "raise": "RuntimeError: planted",
    "sleep": "in test_fault",
    "receive": "in test_fault",
}
DEATHS = {
    "kill": "It was in shared.py::test_fault",
    "segv": "Segmentation fault",
    "gil": "Killed by the guard",
    "os_exit": "os._exit(3) was called here",
    "sleep, then kill": "It was in shared.py::test_fault",
}


def shared(
    folder: Path,
    fault: str,
    ranks: int,
    victim: int,
    *arguments: str,
    slow: float = 0.0,
    early: int = -1,
    meet_every: float = 10.0,
    launcher: Sequence[str] | None = None,
) -> Launch:
    environment = {
        "PLANTED_FAULT": fault,
        "PLANTED_SLOW": str(slow),
        "PLANTED_EARLY": str(early),
        "PLANTED_MEET_EVERY": str(meet_every),
    }
    return launch(
        "shared",
        folder,
        ranks,
        victim=victim,
        deadline=DEADLINE,
        environment=environment,
        arguments=[
            *("--share", "--color=no"),
            *(str(PLANTED / "shared.py"), str(PLANTED / "shared_too.py")),
            *arguments,
        ],
        launcher=launcher,
    )


def outcomes(result: Launch, test: str) -> list[str]:
    """Return the outcomes of the calls of a test, for all its parameters."""
    return [e["outcome"] for e in result.reports(test) if e["when"] == "call"]


@pytest.mark.parametrize("meet_every", [10.0, 0.0])
def test_each_is_run_once_and_all_at_the_same_time(tmp_path: Path, meet_every: float) -> None:
    result = shared(tmp_path, "none", 4, 0, meet_every=meet_every)
    assert result.code == 0, result.output
    for test in (*OTHERS, *FOR_ALL, "test_fault"):
        assert result.passed(test), result.output
    ran = [(e["ran"], e["rank"]) for e in result.log if "ran" in e]
    assert sorted(ran) == sorted({k: rank for k, rank in ran}.items())
    assert sorted(k for k, _ in ran) == list(range(12))
    # A class fixture is made once for the shared tests, and once for the tests on all ranks.
    for step in ("setup", "teardown"):
        assert sorted(e["rank"] for e in result.log if step in e) == [0, 0, 1, 1, 2, 2, 3, 3]
    # Shared tests come before the others of their file; a test with the mark alone does not.
    reported = list(dict.fromkeys(e["test"] for e in result.log if e.get("when") == "call"))
    assert reported[4] == "test_both[1]"
    at = reported.index("test_both[4]")
    assert reported[at : at + 3] == ["test_both[4]", "test_alone[1]", "test_once_for_all[4-0]"]
    assert "41 passed, 1 xfailed" in result.output
    assert [e["whole"] for e in result.log if "whole" in e] == [True] * 4


@pytest.mark.parametrize(
    ("fault", "ranks", "victim"),
    [("raise", 4, 3), ("sleep", 4, 3), ("receive", 4, 3), ("sleep", 4, 0), ("sleep", 2, 1)],
)
def test_a_failure_fails_its_test_only(tmp_path: Path, fault: str, ranks: int, victim: int) -> None:
    result = shared(tmp_path, fault, ranks, victim)
    failure = result.failure("test_fault")
    assert FAULTS[fault] in failure["text"]
    assert f"rank {victim} failed" in failure["text"]
    assert "planted output" in failure["text"] or fault != "raise"
    assert failure["seconds"] < DEADLINE + 3.0
    assert sorted(outcomes(result, "test_fault")) == ["failed", *["passed"] * (ranks - 1)]
    for test in (*OTHERS, *FOR_ALL):
        assert result.passed(test), result.output
    assert [e["whole"] for e in result.log if "whole" in e] == [fault == "raise"] * ranks
    assert result.ended - result.fault() < DEADLINE + 5.0
    assert result.code == 1


def test_a_skip_on_one_rank_is_no_disagreement(tmp_path: Path) -> None:
    result = shared(tmp_path, "skip", 4, 2)
    assert sorted(outcomes(result, "test_fault")) == ["passed"] * 3 + ["skipped"]
    skipped = next(e for e in result.reports("test_fault") if e["outcome"] == "skipped")
    assert "planted skip" in skipped["text"]
    assert result.code == 0, result.output


@pytest.mark.parametrize(
    ("death", "ranks", "slow"),
    [*[(death, 4, 0.0) for death in DEATHS], ("kill", 2, 0.0), ("kill", 4, 0.8)],
)
def test_after_a_death_the_others_run_what_is_left(
    tmp_path: Path, death: str, ranks: int, slow: float
) -> None:
    """The test it was in fails. A survivor that was in a test starts that test again."""
    result = shared(tmp_path, death, ranks, ranks - 1, slow=slow)
    failure = result.failure("test_fault")
    assert f"rank {ranks - 1} died" in failure["text"]
    assert DEATHS[death] in failure["text"]
    assert sorted(outcomes(result, "test_fault")) == ["failed", *["passed"] * (ranks - 1)]
    for test in OTHERS:
        assert result.passed(test), result.output
    assert result.code == 1


def test_a_death_in_the_meeting_fails_the_run_and_no_test(tmp_path: Path) -> None:
    result = shared(tmp_path, "kill in the meeting", 4, 3, slow=0.8)
    for test in ("test_fault", *OTHERS):
        assert result.passed(test), result.output
    assert "rank 3 died" in result.output
    assert result.code == 1


def test_a_death_after_the_shared_tests_does_not_name_one(tmp_path: Path) -> None:
    result = shared(tmp_path, "kill together", 4, 3)
    text = "".join(e["text"] for e in result.reports("test_together"))
    assert "rank 3 died" in text
    assert "It was in" not in text
    for test in ("test_fault", *FOR_ALL):
        assert result.passed(test), result.output


def test_without_a_note_all_tests_of_the_dead_rank_have_failed(tmp_path: Path) -> None:
    result = shared(tmp_path, "kill, without a note", 4, 3)
    for test in ("test_fault", "test_after", "test_once"):
        assert outcomes(result, test).count("failed") == len(outcomes(result, test)) // 4
    assert result.passed("test_together_too")


@pytest.mark.parametrize("ranks", [4, 2])
def test_the_death_of_the_rank_that_prints_ends_the_run(tmp_path: Path, ranks: int) -> None:
    result = shared(tmp_path, "kill", ranks, 0, early=1)
    assert "rank 0 died" in result.output
    assert "It was in shared.py::test_fault" in result.output
    assert "planted early" in result.output
    assert not result.reports("test_together")
    assert result.ended - result.fault() < 6.0
    assert result.code not in (0, None)


@pytest.mark.parametrize(
    ("fault", "slow"),
    [("exit_c", 0.0), ("exit_c", 0.8), ("leave", 0.8), ("interrupt in the meeting", 0.8)],
)
@pytest.mark.parametrize(("victim", "early"), [(3, 1), (0, 1), (3, 3)])
def test_a_rank_that_leaves_ends_the_run(
    tmp_path: Path, fault: str, slow: float, victim: int, early: int
) -> None:
    """The run ends in order and shows all reports, except what a dead rank had not yet sent."""
    result = shared(tmp_path, fault, 4, victim, slow=slow, early=early)
    shown = f"rank {victim} ended in C code" if fault == "exit_c" else "KeyboardInterrupt"
    assert shown in result.output
    assert "planted early" in result.output or (fault == "exit_c" and early == victim)
    if fault == "leave":  # the others finish the test they are in, and begin no other
        assert len([e for e in result.log if "ran" in e]) <= 3
    assert not result.reports("test_together")
    assert result.ended - result.fault() < 6.0
    assert result.code not in (0, None)


@pytest.mark.parametrize("victim", [3, 0])
def test_all_ranks_stop_after_a_failure_if_one_does(tmp_path: Path, victim: int) -> None:
    result = shared(tmp_path, "raise", 4, victim, "-x", meet_every=0.0)
    assert "stopping after 1 failures" in result.output
    assert not result.reports("test_once")
    assert not result.reports("test_together")
    assert result.ended - result.fault() < 6.0
    assert result.code == 1


@pytest.mark.parametrize("fault", ["raise", "sleep"])
def test_without_fault_tolerance(tmp_path: Path, fault: str) -> None:
    result = shared(tmp_path, fault, 4, 2, launcher=[mpiexec()])
    assert FAULTS[fault] in result.output
    assert bool(result.reports("test_together")) is (fault == "raise")
    assert result.ended - result.fault() < 8.0
    assert result.code not in (0, None)
