"""A run file has a name of its own and a header that says how its results came about."""

import json
import os
import sys

import pytest

from bench.core.fingerprint import fingerprint
from bench.report import run_file

pytestmark = pytest.mark.workers(1)


def test_a_file_is_named_after_its_session_and_process(tmp_path):
    path = run_file.new_path("bench_mpi", tmp_path)
    assert path.parent == tmp_path
    assert path.name.endswith(f"-bench_mpi-{os.getpid()}.jsonl")
    assert not path.exists()


def test_two_runs_of_one_second_have_two_files(tmp_path):
    for _ in range(3):
        run_file.new_path("launch", tmp_path).touch()
    assert len(list(tmp_path.iterdir())) == 3


def test_the_header_says_where_and_how(monkeypatch):
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "pytest", "a b"])
    info = {"id": "abc", "dirty": True}
    monkeypatch.setattr(run_file, "get_commit_info", lambda project: info)
    header = json.loads(json.dumps(run_file.header("bench_mpi", 3)))
    assert header["fingerprint"] == fingerprint(3, ["cpu"])
    assert header["command"] == "python -m pytest 'a b'"
    assert (header["session"], header["ranks"]) == ("bench_mpi", 3)
    assert (header["commit"], header["dirty"]) == ("abc", True)
    assert header["versions"]["numpy"]
    assert header["date"][4] == "-"
