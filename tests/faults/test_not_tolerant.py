"""Without fault tolerance nothing can go on, but nothing hangs either: all tracebacks, then abort.

Runs with a plain mpiexec of this environment, and with MPICH if MPICH_PYTHON is the interpreter of
an environment that has the wheels mpich, mpi4py, numpy, pytest, pytest-benchmark and hypothesis.
"""

import os
import sys
from pathlib import Path

import pytest

from tests.faults.launch import Launch, launch, mpiexec

DEADLINE = 2.0


@pytest.fixture(params=["plain mpiexec", "mpich"])
def run(request: pytest.FixtureRequest, tmp_path: Path):
    python, launcher = sys.executable, mpiexec()
    if request.param == "mpich":
        if "MPICH_PYTHON" not in os.environ:
            pytest.skip("MPICH_PYTHON is not set: see the session faults of nox")
        python = os.environ["MPICH_PYTHON"]
        launcher = str(Path(python).with_name("mpiexec"))

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
            launcher=[launcher],
            python=python,
        )

    return run


@pytest.mark.parametrize("victim", [3, 1, 0])
@pytest.mark.parametrize(
    ("fault", "shown"),
    [
        ("call", "RuntimeError: planted in call"),
        ("deadlock_receive", "in test_deadlock_receive"),
        ("python_loop", "in test_python_loop"),
    ],
)
def test_aborted(run, fault: str, shown: str, victim: int) -> None:
    result = run("survivable", victim, "-k", f"test_{fault}")
    lines = [line for line in result.output.splitlines() if line.startswith(f"[rank {victim}]")]
    assert any(shown in line for line in lines), result.output
    for rank in range(4):
        assert f"[rank {rank}]" in result.output
    assert result.ended - result.fault() < DEADLINE + 10.0
    assert result.code not in (0, None)


@pytest.mark.parametrize("victim", [3, 0])
@pytest.mark.parametrize("death", ["kill", "os_exit", "gil"])
def test_death(run, death: str, victim: int) -> None:
    """The launcher ends the run, and has its own words for it."""
    result = run("lethal", victim, death=death)
    assert result.ended - result.fault() < DEADLINE + 10.0
    assert result.passed("test_before")
    assert result.code not in (0, None)


def test_without_faults(run) -> None:
    result = run("survivable", -1, "-k", "test_after")
    assert result.code == 0, result.output
    assert "15 passed" in result.output


def test_without_launcher(tmp_path: Path) -> None:
    """A plain pytest is a world of one rank."""
    result = launch("survivable", tmp_path, 1, launcher=[], arguments=["-k", "test_after"])
    assert result.code == 0, result.output
    assert "ranks: 1" in result.output
    assert "15 passed" in result.output
