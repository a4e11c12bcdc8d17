"""A strategy that is added to the catalog is proven, measured and shown without another line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.core.cell import Measurement
from bench.core.grid import loose, synchronous
from bench.studies.which_strategy import NETS, competing
from strategies import DataParallel
from strategies.catalog import Entry, added
from strategies.records import read

ROOT = Path(__file__).parents[3]

PLUGIN = """
from bench.core import turns
from strategies import DataParallel
from strategies.catalog import CATALOG, Entry

CATALOG["NewStrategy"] = Entry("NewStrategy", DataParallel)
turns.SHORTEST_TURN = 1e-3
"""

FILES = (
    "bench/test_speedup.py",
    "tests/strategies/test_catalog.py",
    "tests/strategies/comm/test_torch_comm.py",
)

LAUNCHERS = ("OMPI_", "PMIX_", "PMI_", "PRTE_", "LOCKSTEP_RANKS")
"""Beginnings of variables that make a process a rank of this launch."""


@pytest.mark.workers(1)
@pytest.mark.deadline(180)
def test_a_new_entry_is_in_the_proof_the_grid_and_the_table(tmp_path):
    (tmp_path / "new_strategy.py").write_text(PLUGIN)
    path = tmp_path / "run.jsonl"
    environment = {k: v for k, v in os.environ.items() if not k.startswith(LAUNCHERS)}
    environment |= {"PYTHONPATH": str(tmp_path), "LOCKSTEP_CELLS": str(path), "LOCKSTEP_RANKS": "1"}
    command = [sys.executable, "-m", "pytest", "-p", "new_strategy", "--quick", "--color=no"]
    command += ["-v", "-p", "no:cacheprovider", "-k", "NewStrategy", *FILES]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (cell,) = [record for record in read(path).records if isinstance(record, Measurement)]
    assert cell.other_keys["id"] == "speedup/NewStrategy-mlp-1w-b256-n10000-cpu"
    assert cell.check_error == 0
    lines = done.stdout.splitlines()
    for proof in (
        "of_plain_training[1-NewStrategy] PASSED",
        "sequential[1-numpy-NewStrategy] PASSED",
    ):
        assert any(proof in line for line in lines)
    assert any(line.startswith("NewStrategy  ") for line in lines), "no row of the table"


def test_a_new_entry_is_in_the_filters_of_the_grid_and_the_race(comm):
    exact = Entry("NewStrategy", DataParallel)
    with added(exact):
        assert "NewStrategy" in synchronous()
        strategies = competing(NETS["usual"], comm)
        assert "NewStrategy" in strategies
        for strategy in strategies.values():
            strategy.close()
    with added(Entry("NewStrategy", DataParallel, inexact="for a test")):
        assert "NewStrategy" in loose()
    assert "NewStrategy" not in synchronous() + loose()
