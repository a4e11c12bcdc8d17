"""Launches with files of one's own: what passes, what is caught, and what is said."""

import os
import shlex
import subprocess
import sys

import pytest

from tests.mutants.test_mutants import ROOT, copy_tree, outcomes

pytestmark = [pytest.mark.workers(1), pytest.mark.deadline(180)]

MODEL = {"model": "net", "data": "rows"}
RANK_1_FAILS = """
from mpi4py import MPI
from strategies import DataParallel as Mine
if MPI.COMM_WORLD.rank == 1:
    raise OSError("no such disk")
"""


def by_test(found):
    """Outcomes by name of the test, without what it was tried with."""
    grouped = {}
    for name, outcome in found.items():
        grouped.setdefault(name.split("::")[1].split("[")[0], set()).add(outcome)
    return grouped


def test_the_right_example_passes(tmp_path):
    copy_tree(tmp_path)
    door = "tests/examples/ring.py:RingDataParallel"
    found = by_test(outcomes(tmp_path, ["tests", "--strategy", door], ranks=3))
    assert {"test_even_shards", "test_uneven_shards"} <= found.keys()
    assert set().union(*found.values()) == {"passed"}


def test_the_wrong_example_is_caught_by_the_test_that_is_named_for_it(tmp_path):
    copy_tree(tmp_path)
    door = "tests/examples/mean_of_means.py:MeanOfMeans"
    found = by_test(outcomes(tmp_path, ["tests", "--strategy", door], ranks=2))
    assert found["test_uneven_shards"] == {"passed", "failed"}  # of one worker, and of two
    assert found["test_even_shards"] == {"passed"}


def test_a_model_of_ones_own_is_trained_by_all_of_ours(tmp_path):
    copy_tree(tmp_path)
    doors = [f"--{door}=tests/examples/model.py:{name}" for door, name in MODEL.items()]
    found = outcomes(tmp_path, ["tests", "-k", "momentum or size or two", *doors], ranks=2)
    assert set(found.values()) <= {"passed", "skipped"}
    for strategy in ("DataParallel", "SharedDataParallel", "ZeRO-3", "TensorParallel", "Pipeline"):
        name = f"tests.test_yours::test_uneven_shards[net-{strategy}-2-momentum]"
        assert found[name] == "passed", found


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "defines no Mine"),
        (RANK_1_FAILS, "raised OSError at mine.py:5: no such disk (rank 1, not all)"),
    ],
    ids=["all ranks", "one rank"],
)
def test_a_mistake_is_one_sentence_and_the_end(tmp_path, text, said):
    file = tmp_path / "mine.py"
    file.write_text(text)
    command = [
        *shlex.split(os.environ.get("LOCKSTEP_MPIEXEC", "mpiexec")),
        *("-n", "2", sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests", "bench"),
        *("--strategy", f"{file}:Mine"),
    ]
    environment = os.environ | {"LOCKSTEP_RANKS": "2"}
    run = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == pytest.ExitCode.USAGE_ERROR
    assert (run.stdout + run.stderr).count("ERROR") == 1
    assert said in run.stdout + run.stderr
