"""Lift the rank-aware layer into a project outside this repository, as its page says."""

import os
import sys
from pathlib import Path

from tests.faults.launch import ROOT, run
from tests.pages.pages import blocks, commands

LAYER = ROOT / "tests" / "ranks"
FAILS_ON_ONE_RANK = """
def test_fails_on_one_rank(world):
    assert world.rank == 0, "planted"
"""
COMM_WORLD_EVERYWHERE = Path(__file__).parent / "planted" / "comm_world_everywhere.py"


def lift(project: Path, tests: dict[str, str], *arguments: str) -> tuple[int, str]:
    """Do what the page says in an empty project with these tests; return exit code and output."""
    (project / "tests").mkdir(parents=True)
    for name, text in tests.items():
        (project / "tests" / name).write_text(text)
    (project.parent / "lockstep").symlink_to(ROOT)
    lines = [
        command
        for block in blocks(LAYER / "README.md", "console")
        for command in commands(block)
        if not command.startswith(("nox", "pip"))  # pip's packages are there
    ]
    assert [line.split()[0] for line in lines] == ["cp", "echo", "mpiexec"]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    script = " && ".join([*lines[:-1], " ".join([lines[-1], "-v", "--color=no", *arguments])])
    code, output, _ = run(["bash", "-c", script], project, {"PATH": path})
    return code, output


def test_the_page_says_how_to_lift_it_into_another_project(tmp_path: Path) -> None:
    """A test that passes and one that fails on one rank are both reported; so are its own."""
    (first_test,) = (block.text for block in blocks(LAYER / "README.md", "python"))
    tests = {"test_sum.py": first_test + FAILS_ON_ONE_RANK}
    code, output = lift(tmp_path / "other", tests, "ranks")
    assert "ranks: 2 (fault-tolerant)" in output
    for workers in (1, 2):
        assert f"tests/test_sum.py::test_sum[{workers}] PASSED" in output
    assert "tests/test_sum.py::test_fails_on_one_rank FAILED" in output
    assert "rank 1: AssertionError: planted" in output
    assert "ranks/test_ranks.py::test_world_has_all_ranks PASSED" in output
    assert "1 failed" in output
    assert code == 1


def test_a_suite_that_uses_comm_world_everywhere(tmp_path: Path) -> None:
    suite = {"test_everywhere.py": COMM_WORLD_EVERYWHERE.read_text()}
    code, output = lift(tmp_path / "other", suite)
    assert "ranks: 2 (fault-tolerant)" in output
    assert "11 passed" in output
    assert code == 0, output
