"""Lift the rank-aware layer into a project outside this repository, as its page says."""

import os
import shutil
import sys
from pathlib import Path

from tests.faults.launch import ROOT, run
from tests.pages.pages import blocks, commands

LAYER = ROOT / "tests" / "ranks"
FAILS_ON_ONE_RANK = """
def test_fails_on_one_rank(world):
    assert world.rank == 0, "planted"
"""


def test_the_page_says_how_to_lift_it_into_another_project(tmp_path: Path) -> None:
    """A test that passes and one that fails on one rank are both reported; so are its own."""
    conftest, first_test = (block.text for block in blocks(LAYER / "README.md", "python"))
    shutil.copytree(LAYER, tmp_path / "ranks", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "conftest.py").write_text(conftest)
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_sum.py").write_text(first_test + FAILS_ON_ONE_RANK)
    lines = [c for block in blocks(LAYER / "README.md", "console") for c in commands(block)]
    (command,) = (line for line in lines if line.startswith("mpiexec"))
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    shell = ["bash", "-c", f"{command} ranks -v --color=no"]
    code, output, _ = run(shell, tmp_path, {"PATH": path})
    assert "ranks: 2 (fault-tolerant)" in output
    for workers in (1, 2):
        assert f"tests/test_sum.py::test_sum[{workers}] PASSED" in output
    assert "tests/test_sum.py::test_fails_on_one_rank FAILED" in output
    assert "rank 1: AssertionError: planted" in output
    assert "ranks/test_ranks.py::test_world_has_all_ranks PASSED" in output
    assert "1 failed" in output
    assert code == 1
