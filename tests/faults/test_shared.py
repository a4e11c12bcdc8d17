"""Tests that are shared out: each runs once, and a fault on one rank is that of its test alone."""

from pathlib import Path

import pytest

from tests.faults.launch import Launch, launch

DEADLINE = 1.0
# Besides those of the rank that goes wrong.
PASSING = ("test_both", "test_once", "test_side_by_side", "test_alone", "test_together")

FAULTS = {  # what is shown of each
    "raise": "RuntimeError: planted",
    "sleep": "in test_fault",
    "receive": "in test_fault",
}
DEATHS = {"kill": "It was in shared.py::test_fault", "segv": "Segmentation fault", "gil": "It was"}


def shared(folder: Path, fault: str, ranks: int, victim: int, *arguments: str) -> Launch:
    environment = {"PLANTED_FAULT": fault}
    return launch(
        "shared",
        folder,
        ranks,
        victim=victim,
        deadline=DEADLINE,
        environment=environment,
        arguments=["--share", *arguments],
    )


def outcomes(result: Launch, test: str) -> list[str]:
    """Of the calls of a test, or of the setups where there was no call."""
    last = {e["test"]: e["outcome"] for e in result.reports(test) if e["when"] != "teardown"}
    return list(last.values())


def test_each_is_run_once_and_all_at_the_same_time(tmp_path: Path) -> None:
    result = shared(tmp_path, "none", 4, 0)
    assert result.code == 0, result.output
    for test in (*PASSING, "test_fault", "test_after"):
        assert result.passed(test), result.output
    ran = [(e["ran"], e["rank"]) for e in result.log if "ran" in e]
    assert sorted(ran) == sorted({k: rank for k, rank in ran}.items())
    assert sorted(k for k, _ in ran) == list(range(8))
    for step in ("setup", "teardown"):
        assert sorted(e["rank"] for e in result.log if step in e) == [0, 1, 2, 3]
    # What needs one rank comes before the others of its file; what is to be alone does not.
    reported = list(dict.fromkeys(e["test"] for e in result.log if e.get("when") == "call"))
    assert reported[0] == "test_both[1]"
    assert reported[-3:] == ["test_both[4]", "test_alone[1]", "test_together"]
    assert "24 passed" in result.output


@pytest.mark.parametrize(
    ("fault", "ranks", "victim"),
    [("raise", 4, 3), ("sleep", 4, 3), ("receive", 4, 3), ("sleep", 4, 0), ("sleep", 2, 1)],
)
def test_a_failure_is_that_of_its_test(tmp_path: Path, fault: str, ranks: int, victim: int) -> None:
    result = shared(tmp_path, fault, ranks, victim)
    failure = result.failure("test_fault")
    assert FAULTS[fault] in failure["text"]
    assert f"rank {victim} failed" in failure["text"]
    assert "planted output" in failure["text"] or fault != "raise"
    assert failure["seconds"] < DEADLINE + 3.0
    assert sorted(outcomes(result, "test_fault")) == ["failed", *["passed"] * (ranks - 1)]
    for test in (*PASSING, "test_after"):
        assert result.passed(test), result.output
    assert result.code == 1


def test_a_skip_of_one_is_no_disagreement(tmp_path: Path) -> None:
    result = shared(tmp_path, "skip", 4, 2)
    assert sorted(outcomes(result, "test_fault")) == ["passed"] * 3 + ["skipped"]
    skipped = next(e for e in result.reports("test_fault") if e["outcome"] == "skipped")
    assert "planted skip" in skipped["text"]
    assert result.code == 0, result.output


@pytest.mark.parametrize(
    ("death", "ranks", "victim"), [("kill", 4, 3), ("segv", 4, 3), ("gil", 4, 3), ("kill", 2, 1)]
)
def test_a_death_costs_the_share_of_its_rank(
    tmp_path: Path, death: str, ranks: int, victim: int
) -> None:
    """The test that it was in has failed; of the others of its share nobody knows."""
    result = shared(tmp_path, death, ranks, victim)
    failure = result.failure("test_fault")
    assert f"rank {victim} died" in failure["text"]
    assert DEATHS[death] in failure["text"]
    assert sorted(outcomes(result, "test_fault")) == ["failed", *["passed"] * (ranks - 1)]
    assert sorted(outcomes(result, "test_after")) == [*["passed"] * (ranks - 1), "skipped"]
    assert sorted(outcomes(result, "test_once")) == [
        *["passed"] * 2 * (ranks - 1),
        *["skipped"] * 2,
    ]
    listed = result.output.partition("not run, because ranks have died")[2]
    assert listed.count("::test_after[") == 1
    assert listed.count("::test_once[") == 2
    for test in ("test_alone", "test_together"):
        assert result.passed(test), result.output
    assert result.code == 1


@pytest.mark.parametrize("ranks", [4, 2])
def test_the_death_of_the_rank_that_prints_ends_the_run(tmp_path: Path, ranks: int) -> None:
    result = shared(tmp_path, "kill", ranks, 0)
    assert "rank 0 died" in result.output
    assert "It was in shared.py::test_fault" in result.output
    assert not result.reports("test_together")
    assert result.ended - result.fault() < 6.0
    assert result.code not in (0, None)


@pytest.mark.parametrize("victim", [3, 0])
def test_a_rank_that_leaves_ends_the_run(tmp_path: Path, victim: int) -> None:
    result = shared(tmp_path, "leave", 4, victim)
    assert "KeyboardInterrupt" in result.output
    assert not result.reports("test_together")
    assert result.ended - result.fault() < 6.0
    assert result.code not in (0, None)


@pytest.mark.parametrize("victim", [3, 0])
def test_all_ranks_stop_after_a_failure_if_one_does(tmp_path: Path, victim: int) -> None:
    result = shared(tmp_path, "raise", 4, victim, "-x")
    assert "stopping after 1 failures" in result.output
    assert not result.reports("test_together")
    assert result.ended - result.fault() < 6.0
    assert result.code == 1
