"""A plain script that imports `strategies` ends all ranks when one raises."""

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.faults.launch import PLANTED, ROOT, ULFM, mpiexec, run


def script(
    tmp_path: Path,
    wrong: str,
    ranks: int,
    victim: int,
    options: Sequence[str] = (),
    python: Sequence[str] = (),
) -> tuple[int, str]:
    """Return exit code and output of `planted/script.py`; a launch that hangs fails the test."""
    environment = {
        "PLANTED_WRONG": wrong,
        "PLANTED_VICTIM": str(victim),
        "PYTHONPATH": str(ROOT),
    }
    start = [mpiexec(), *options, "-n", str(ranks)] if ranks > 1 else []
    program = [sys.executable, *python, str(PLANTED / "script.py")]
    code, output, _ = run([*start, *program], tmp_path, environment)
    return code, output


@pytest.mark.parametrize(("ranks", "victim"), [(2, 0), (2, 1), (4, 3), (4, 1)])
def test_one_rank_raises(tmp_path: Path, ranks: int, victim: int) -> None:
    """The hook that was there before is called, and so are atexit functions."""
    code, output = script(tmp_path, "raise", ranks, victim)
    assert output.count("RuntimeError: planted") == 1
    assert output.count("the hook before") == 1
    assert output.count("at exit") == 1
    assert code == 1


@pytest.mark.parametrize("python", [[], ["-m", "mpi4py"]])
@pytest.mark.parametrize("attempt", range(2))
def test_all_ranks_raise(tmp_path: Path, python: list[str], attempt: int) -> None:
    """With fault tolerance Open MPI may never end if ranks abort at the same time: one does."""
    code, output = script(tmp_path, "raise everywhere", 2, 0, ULFM, python)
    assert "RuntimeError: planted" in output
    assert output.count("at exit") == 1
    assert code == 1


def test_an_interrupt(tmp_path: Path) -> None:
    code, output = script(tmp_path, "interrupt", 2, 1)
    assert "KeyboardInterrupt" in output
    assert code == 130


def test_sys_exit_ends_all_ranks_of_mpi4py(tmp_path: Path) -> None:
    """No hook sees it in plain Python: there the other ranks wait, as strategies/README.md says."""
    code, output = script(tmp_path, "exit", 2, 1, python=["-m", "mpi4py"])
    assert output.count("at exit") == 1
    assert code == 3


def test_an_exception_in_a_thread_ends_the_thread_only(tmp_path: Path) -> None:
    code, output = script(tmp_path, "thread", 2, 1)
    assert "RuntimeError: planted" in output
    assert output.count("at exit") == 2
    assert code == 0


def test_plain_python_is_left_alone(tmp_path: Path) -> None:
    code, output = script(tmp_path, "raise", 1, 0)
    assert output.count("the hook before") == 1
    assert code == 1
    assert script(tmp_path, "nothing", 2, 0)[0] == 0
