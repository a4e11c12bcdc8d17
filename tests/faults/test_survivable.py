"""A fault that all ranks survive is reported in time, with its traceback and rank."""

import pytest

from tests.faults.launch import Launch, launch

DEADLINE = 1.0

FAULTS = {  # what the report shows, and seconds until it is there at the latest
    "setup": ("RuntimeError: planted in setup", 2.0),
    "call": ("RuntimeError: planted in call", 2.0),
    "teardown": ("RuntimeError: planted in teardown", 2.0),
    "sys_exit": ("SystemExit: 3", 2.0),
    "mixed_skip": ("skipped planted skip", 2.0),
    "mixed_skip_in_collective": ("skipped planted skip", 2.0),
    "mixed_xfail": ("xfailed planted xfail", 2.0),
    "memory": ("MemoryError", 2.0),
    "deadlock_mismatched": ("in others_wait", DEADLINE + 3.0),
    "deadlock_receive": ("in test_deadlock_receive", DEADLINE + 3.0),
    "deadlock_pickled": ("in test_deadlock_pickled", DEADLINE + 3.0),
    "deadlock_split": ("in test_deadlock_split", DEADLINE + 3.0),
    "deadlock_world": ("in test_deadlock_world", DEADLINE + 3.0),
    "python_loop": ("in test_python_loop", DEADLINE + 2.0),
    "sleep": ("in test_sleep", DEADLINE + 2.0),
    "blocking_call": ("in test_blocking_call", DEADLINE + 2.0),
    "alone": ("in test_alone", DEADLINE + 2.0),
}


@pytest.fixture(
    scope="module",
    params=[
        (ranks, victim, comm)
        for comm in ("comm", "world", "module")
        for ranks, victim in ((4, 3), (4, 1), (4, 0), (2, 1), (2, 0))
    ],
    ids=lambda p: f"{p[0]} ranks, victim {p[1]}, {p[2]}",
)
def run(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Launch, int]:
    ranks, victim, comm = request.param
    folder = tmp_path_factory.mktemp("survivable")
    environment = {"PLANTED_COMM": comm}
    result = launch(
        "survivable", folder, ranks, victim=victim, deadline=DEADLINE, environment=environment
    )
    return result, victim


@pytest.mark.parametrize("fault", FAULTS)
def test_reported(run: tuple[Launch, int], fault: str) -> None:
    result, victim = run
    shown, bound = FAULTS[fault]
    failure = result.failure(f"test_{fault}")
    assert shown in failure["text"]
    assert f"rank {victim}" in failure["text"]
    assert failure["seconds"] < bound


def test_everything_else_passes(run: tuple[Launch, int]) -> None:
    result, _ = run
    healthy = {e["test"].split("[")[0] for e in result.log if "test_after" in e.get("test", "")}
    assert len(healthy) == 15, result.output
    assert [test for test in sorted(healthy) if not result.passed(test)] == []
    assert {e["outcome"] for e in result.reports("test_all_skip") if e["when"] == "call"} == {
        "skipped"
    }
    assert result.code == 1
