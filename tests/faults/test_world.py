"""A suite that uses `MPI.COMM_WORLD` goes on after a fault, and after a death without the dead."""

from pathlib import Path

import pytest

from tests.faults.launch import Launch, launch

RAISING = ("test_raise", "test_raise_again", "test_free_in_teardown", "test_wait_in_teardown")
HEALTHY = (
    "test_after_teardown",
    "test_before",
    "test_nothing_is_revoked",
    "test_everything_works",
    "test_fixture_is_made_again",
    "test_fixture_is_made_a_third_time",
)


@pytest.mark.parametrize(
    ("ranks", "victim"),
    [(4, 3), (4, 1), (4, 0), (2, 1), (2, 0)],
)
def test_faults_on_the_world(tmp_path: Path, ranks: int, victim: int) -> None:
    result = launch("world", tmp_path, ranks, victim=victim)
    for test in RAISING:
        failure = result.failure(test)
        assert f"rank {victim} failed" in failure["text"]
        assert failure["seconds"] < 2.0
    assert [test for test in HEALTHY if not result.passed(test)] == [], result.output
    assert_names_the_fault(result)
    if victim == 0:
        assert "[rank 1] rank 0 died" in result.output
        assert result.code == 2
    else:
        assert f"rank {victim} died" in result.failure("test_death")["text"]
        assert result.passed("test_survivors"), result.output
        assert result.code == 1


def assert_names_the_fault(result: Launch) -> None:
    """A communicator that the module holds fails with the name of the fault that has revoked it."""
    (report,) = (e for e in result.reports("test_made_before") if e["outcome"] == "failed")
    assert "a communicator made before the fault in world.py::test_raise call" in report["text"]
    assert "make it in a fixture" in report["text"]
