"""What all ranks do at the same time ends the run in time, and never with exit code 0."""

from pathlib import Path

import pytest

from tests.faults.launch import Launch, launch, mpiexec

RAISED = {  # where all ranks raise, and what is shown
    "import": "RuntimeError: planted",
    "modifyitems": "RuntimeError: planted",
    "session fixture": "3 errors",
    "setup": "3 errors",
    "call": "3 failed",
    "teardown": "3 errors",
    "session teardown": "1 error",
    "sessionfinish": "RuntimeError: planted",
}


def all_at_once(tmp_path: Path, where: str, wrong: str, ranks: int, launcher=None) -> Launch:
    environment = {"PLANTED_WHERE": where, "PLANTED_WRONG": wrong}
    return launch("all_at_once", tmp_path, ranks, environment=environment, launcher=launcher)


@pytest.mark.parametrize(
    ("where", "ranks"),
    [*((where, 2) for where in RAISED), ("setup", 4)],
)
def test_all_raise(tmp_path: Path, where: str, ranks: int) -> None:
    result = all_at_once(tmp_path, where, "raise", ranks)
    assert RAISED[where] in result.output
    assert result.code not in (0, None)


PLACES = ("import", "session fixture", "call", "session teardown", "sessionfinish", "atexit")


@pytest.mark.parametrize(("where", "ranks"), [*((where, 2) for where in PLACES), ("call", 4)])
@pytest.mark.parametrize("wrong", ["os_exit_0", "exit_c_0"])
def test_a_run_without_a_goodbye_is_not_green(
    tmp_path: Path, where: str, wrong: str, ranks: int
) -> None:
    result = all_at_once(tmp_path, where, wrong, ranks)
    if where != "atexit":
        assert "No rank of this node is left" in result.output
        for rank in range(ranks):
            shown = f"[rank {rank}] os._exit(0) was called here"
            assert (shown in result.output) == (wrong == "os_exit_0")
    assert result.code not in (0, None), result.output


@pytest.mark.parametrize("wrong", ["os_exit_0", "exit_c_0"])
@pytest.mark.parametrize("where", ["call", "atexit"])
def test_without_fault_tolerance(tmp_path: Path, where: str, wrong: str) -> None:
    result = all_at_once(tmp_path, where, wrong, 2, launcher=[mpiexec()])
    assert result.code not in (0, None), result.output


@pytest.mark.parametrize("where", ["call", "atexit"])
def test_without_launcher(tmp_path: Path, where: str) -> None:
    result = all_at_once(tmp_path, where, "os_exit_0", 1, launcher=[])
    assert result.code == 1, result.output
