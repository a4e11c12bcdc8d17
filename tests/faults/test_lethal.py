"""After a fault that kills a rank, the survivors report it and go on, or the run ends in order."""

from itertools import pairwise
from pathlib import Path

import pytest

from tests.faults.launch import Launch, launch

DEADLINE = 1.0

DEATHS = {  # what the report shows, and seconds until it is there at the latest
    "kill": ("It left no trace", 2.0),
    "segv": ("Segmentation fault", 2.0),
    "os_exit": ("os._exit(3) was called here", 2.0),
    "exit_0": ("It left no trace", 2.0),
    "swallow": ("in swallow_everything", DEADLINE + 10.0),
    "gil": ("in hold_the_interpreter", DEADLINE + 10.0),
    "stop": ("Killed by the guard", DEADLINE + 10.0),
}
# Each death is once the first of a run and once the second.
PAIRS = [*pairwise(DEATHS), ("stop", "kill")]


def died(
    tmp_path: Path, death: str, ranks: int, victim: int, then: str = "", comm: str = "world"
) -> Launch:
    environment = {"PLANTED_DEATH": death, "PLANTED_NEXT": then, "PLANTED_COMM": comm}
    return launch(
        "lethal", tmp_path, ranks, victim=victim, deadline=DEADLINE, environment=environment
    )


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_two_of_four(tmp_path: Path, first: str, second: str) -> None:
    result = died(tmp_path, first, 4, 3, then=f"{second} 1")
    assert_reported(result, "test_death", first, 3)
    assert_reported(result, "test_next_death", second, 1)
    assert_survivors_go_on(result, 4, 2)


@pytest.mark.parametrize("comm", ["world", "COMM_WORLD"])
@pytest.mark.parametrize("death", DEATHS)
def test_one_of_two(tmp_path: Path, death: str, comm: str) -> None:
    result = died(tmp_path, death, 2, 1, comm=comm)
    assert_reported(result, "test_death", death, 1)
    assert_survivors_go_on(result, 2, 1)


def assert_reported(result: Launch, test: str, death: str, victim: int) -> None:
    failure = result.failure(test)
    shown, bound = DEATHS[death]
    assert f"rank {victim} died" in failure["text"]
    assert shown in failure["text"]
    assert failure["seconds"] < bound


def assert_survivors_go_on(result: Launch, ranks: int, left: int) -> None:
    """Tests for which enough ranks are left pass; the others are listed as not run."""
    reports = [e for e in result.reports("test_survivors") if e["when"] != "teardown"]
    outcomes = {e["test"]: e["outcome"] for e in reports}
    listed = result.output.partition("not run, because ranks have died")[2]
    for n in range(1, ranks + 1):
        test = f"test_survivors[{n}]"
        assert outcomes[test] == ("passed" if n <= left else "skipped")
        assert (f"::{test}" in listed) == (n > left)
    assert result.passed("test_everyone_left")
    assert result.passed("test_before")
    assert result.code == 1


def test_between_tests(tmp_path: Path) -> None:
    """A death that fails no test still fails the run."""
    result = died(tmp_path, "between_tests", 4, 3)
    assert "rank 3 died" in result.output
    assert result.passed("test_everyone_left")
    assert result.ended - result.fault() < 6.0
    assert result.code == 1


@pytest.mark.parametrize(
    ("death", "ranks"),
    [
        *[("kill", 4), ("kill", 2), ("segv", 4), ("os_exit", 2)],
        *[("gil", 4), ("gil", 2), ("swallow", 4), ("stop", 2)],
    ],
)
def test_first_rank(tmp_path: Path, death: str, ranks: int) -> None:
    """If rank 0 dies, which prints and saves, the run ends and the next rank says why."""
    comm = "COMM_WORLD" if ranks == 2 else "world"
    result = died(tmp_path, death, ranks, 0, comm=comm)
    overdue = DEADLINE + 4.0 if death in ("swallow", "gil", "stop") else 0.0
    assert "rank 0 died" in result.output
    assert "[rank 1] " in result.output
    assert "test_death call" in result.output
    assert result.ended - result.fault() < overdue + 6.0
    assert result.passed("test_before")
    assert not result.reports("test_everyone_left")
    assert result.code not in (0, None)


@pytest.mark.parametrize(
    ("death", "ranks", "victim"),
    [
        *[("exit_c", 4, 3), ("exit_c", 4, 1), ("exit_c", 4, 0), ("exit_c", 2, 1), ("exit_c", 2, 0)],
        *[("abort", 4, 3), ("abort", 4, 0), ("abort", 2, 1)],
    ],
)
def test_unreported(tmp_path: Path, death: str, ranks: int, victim: int) -> None:
    """After an exit in C, which MPI reports to nobody, the run ends in order."""
    result = died(tmp_path, death, ranks, victim)
    names = [f"rank {victim} ended in C code"]
    if death == "abort":  # unless the launcher has been faster than the other ranks
        names.append(f"in this order: {victim}, ")
    assert any(name in result.output for name in names), result.output
    assert result.ended - result.fault() < 6.0
    assert result.passed("test_before")
    assert not result.reports("test_everyone_left")
    assert result.code not in (0, None)


def test_all_ranks_hold_the_interpreter(tmp_path: Path) -> None:
    """If no rank is free to report, the guard does."""
    result = died(tmp_path, "gil_everywhere", 2, 0)
    assert "No rank of this node is left" in result.output or "died" in result.output
    for rank in range(2):
        assert f"[rank {rank}] " in result.output
    assert "in hold_the_interpreter" in result.output
    assert result.ended - result.fault() < DEADLINE + 10.0
    assert result.code != 0
