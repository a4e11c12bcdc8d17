"""The example of the README runs as it stands, and asserts its own accuracy."""

import runpy
from pathlib import Path

import pytest
from mpi4py import MPI


@pytest.mark.workers(1, 2)
def test_the_example_of_the_readme_trains(comm, monkeypatch, capsys):
    monkeypatch.setattr(MPI, "COMM_WORLD", comm)  # the ranks of this test
    monkeypatch.setenv("LOCKSTEP_RANKS", str(comm.size))  # a rank alone is alone on purpose
    runpy.run_path(str(Path(__file__).with_name("train.py")))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == (3 if comm.rank == 0 else 0)
    assert all(line.endswith("of the test digits are right") for line in lines)
