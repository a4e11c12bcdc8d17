"""Without fault tolerance, a fault makes all ranks print where they are, then the launch aborts.

Runs with the plain mpiexec of this environment, and with MPICH if MPICH_PYTHON is the interpreter
of an environment that has the wheels mpich, mpi4py, numpy, pytest, pytest-benchmark and hypothesis.
"""

import os
import sys
from pathlib import Path

import pytest

from tests.faults.launch import Launch, launch, mpiexec

DEADLINE = 2.0


@pytest.fixture(params=["plain mpiexec", "mpich"])
def run(request: pytest.FixtureRequest, tmp_path: Path):
    python, launcher = sys.executable, [mpiexec()]
    if request.param == "mpich":
        if "MPICH_PYTHON" not in os.environ:
            pytest.skip("MPICH_PYTHON is not set: see the session faults of nox")
        python = os.environ["MPICH_PYTHON"]
        launcher = [str(Path(python).with_name("mpiexec")), "-disable-auto-cleanup"]

    def run(suite: str, victim: int, *arguments: str, death: str = "") -> Launch:
        environment = {"PLANTED_DEATH": death}
        return launch(
            suite,
            tmp_path,
            4,
            victim=victim,
            deadline=DEADLINE,
            arguments=arguments,
            environment=environment,
            launcher=launcher,
            python=python,
        )

    return run


def prints(result: Launch, rank: int, text: str) -> bool:
    """Return whether a line that ``rank`` printed contains ``text``."""
    lines = result.output.splitlines()
    return any(line.startswith(f"[rank {rank}]") and text in line for line in lines)


@pytest.mark.parametrize(("fault", "victim"), [("deadlock_receive", 1), ("python_loop", 0)])
def test_stuck(run, fault: str, victim: int) -> None:
    result = run("survivable", victim, "-k", f"test_{fault}")
    for rank in range(4):
        assert prints(result, rank, f"in test_{fault}"), result.output
    assert result.ended - result.fault() < DEADLINE + 10.0
    assert result.code not in (0, None)


@pytest.mark.parametrize("victim", [3, 0])
def test_killed(run, victim: int) -> None:
    """The launcher ends the other ranks, MPICH's perhaps before they can print anything."""
    result = run("lethal", victim, death="kill")
    if "prterun" in result.output:
        assert f"in this order: {victim}, " in result.output
        for rank in {0, 1, 2, 3} - {victim}:
            assert prints(result, rank, "in test_death"), result.output
    else:
        messages = ("No rank of this node is left", f"because rank {victim} has ended")
        assert any(text in result.output for text in messages), result.output
    assert result.ended - result.fault() < DEADLINE + 10.0
    assert result.passed("test_before")
    assert result.code not in (0, None)


@pytest.mark.parametrize(
    ("death", "victim"), [("raise", 3), ("raise", 0), ("os_exit", 1), ("gil", 3)]
)
def test_aborted(run, death: str, victim: int) -> None:
    """Every rank prints where it is; another prints it for a rank that cannot."""
    shown = {
        "raise": "RuntimeError: planted",
        "os_exit": "os._exit(3) was called here",
        "gil": "in hold_the_interpreter",
    }[death]
    result = run("lethal", victim, death=death)
    assert prints(result, victim, shown), result.output
    for rank in {0, 1, 2, 3} - {victim}:
        assert prints(result, rank, "in test_death"), result.output
    assert result.ended - result.fault() < DEADLINE + 10.0
    assert result.passed("test_before")
    assert result.code not in (0, None)


def test_without_faults(run) -> None:
    result = run("survivable", -1, "-k", "test_after")
    assert result.code == 0, result.output
    assert "15 passed" in result.output


def test_without_launcher(tmp_path: Path) -> None:
    """Plain pytest, without mpiexec, is a world of one rank."""
    result = launch("survivable", tmp_path, 1, launcher=[], arguments=["-k", "test_after"])
    assert result.code == 0, result.output
    assert "ranks: 1" in result.output
    assert "15 passed" in result.output
