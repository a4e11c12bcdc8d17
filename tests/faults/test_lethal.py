"""Faults that cost a rank: the survivors report it and go on, or the run ends in order."""

from pathlib import Path

import pytest

from tests.faults.launch import Launch, launch

DEADLINE = 1.0
ALL = [(4, 3), (4, 1), (2, 1)]


def died(tmp_path: Path, death: str, ranks: int, victim: int) -> Launch:
    environment = {"PLANTED_DEATH": death}
    return launch(
        "lethal", tmp_path, ranks, victim=victim, deadline=DEADLINE, environment=environment
    )


@pytest.mark.parametrize(("ranks", "victim"), ALL)
@pytest.mark.parametrize(
    ("death", "shown", "bound"),
    [
        ("kill", "It left no trace", 2.0),
        ("segv", "Segmentation fault", 2.0),
        ("os_exit", "os._exit(3) was called here", 2.0),
        ("exit_0", "It left no trace", 2.0),
        ("swallow", "in swallow_everything", DEADLINE + 10.0),
        ("gil", "in hold_the_interpreter", DEADLINE + 10.0),
        ("stop", "Killed by the guard", DEADLINE + 10.0),
    ],
)
def test_survived(
    tmp_path: Path, death: str, shown: str, bound: float, ranks: int, victim: int
) -> None:
    result = died(tmp_path, death, ranks, victim)
    failure = result.failure("test_death")
    assert f"rank {victim} died" in failure["text"]
    assert shown in failure["text"]
    assert failure["seconds"] < bound
    # The survivors go on with what they are enough for; the rest is listed.
    reports = [e for e in result.reports("test_survivors") if e["when"] != "teardown"]
    outcomes = {e["test"]: e["outcome"] for e in reports}
    skipped = outcomes.pop(f"test_survivors[{ranks}]")
    assert skipped == "skipped"
    assert set(outcomes.values()) == {"passed"}
    assert result.passed("test_everyone_left")
    assert result.passed("test_before")
    listed = result.output.partition("not run, because ranks have died")[2]
    assert f"test_survivors[{ranks}]" in listed
    assert result.code == 1


@pytest.mark.parametrize(("ranks", "victim"), [(4, 0), (2, 0)])
@pytest.mark.parametrize("death", ["kill", "segv", "os_exit", "gil"])
def test_first_rank(tmp_path: Path, death: str, ranks: int, victim: int) -> None:
    """Rank 0 prints and saves: the run ends, and the next rank says why."""
    result = died(tmp_path, death, ranks, victim)
    overdue = DEADLINE + 4.0 if death == "gil" else 0.0
    assert "rank 0 died" in result.output
    assert "[rank 1] " in result.output
    assert "test_death call" in result.output
    assert result.ended - result.fault() < overdue + 6.0
    assert result.passed("test_before")
    assert not result.reports("test_everyone_left")
    assert result.code not in (0, None)


@pytest.mark.parametrize(("ranks", "victim"), [*ALL, (4, 0)])
@pytest.mark.parametrize("death", ["exit_c", "abort"])
def test_unreported(tmp_path: Path, death: str, ranks: int, victim: int) -> None:
    """Exits in C, of which MPI tells nobody: the run ends in order."""
    result = died(tmp_path, death, ranks, victim)
    # After an abort the launcher does not always pass on what the others print; and with two ranks
    # it kills the other one for an exit in C, without a word.
    names = [f"rank {victim} ended in C code", f"MPI_ABORT was invoked on rank {victim}"]
    if (death, ranks) != ("exit_c", 2):
        assert any(name in result.output for name in names[: 2 if death == "abort" else 1])
    assert result.ended - result.fault() < 6.0
    assert result.passed("test_before")
    assert not result.reports("test_everyone_left")
    assert result.code not in (0, None)


def test_all_ranks_hold_the_interpreter(tmp_path: Path) -> None:
    """Nobody is left to tell but the guard."""
    result = died(tmp_path, "gil_everywhere", 2, 0)
    assert "No rank of this node is left" in result.output or "died" in result.output
    assert "in hold_the_interpreter" in result.output
    assert result.ended - result.fault() < DEADLINE + 10.0
    assert result.code != 0
