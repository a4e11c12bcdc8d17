"""Launches with user files: what passes, what is caught, and what is said."""

import pytest

from tests.mutants.test_mutants import ROOT, copy_tree, launch, outcomes

pytestmark = [pytest.mark.workers(1), pytest.mark.deadline(180)]

ONE_LAYER = "import torch\ndef net(): return torch.nn.Linear(3, 2)\n"
RANK_1_FAILS = """
from mpi4py import MPI
from strategies import DataParallel as Mine
if MPI.COMM_WORLD.rank == 1:
    raise OSError("no such disk")
"""


def by_test(found):
    """Group outcomes by the name of the test, without its parameters."""
    grouped = {}
    for name, outcome in found.items():
        grouped.setdefault(name.split("::")[1].split("[")[0], set()).add(outcome)
    return grouped


def test_the_right_example_passes(tmp_path):
    copy_tree(tmp_path)
    ring = "tests/examples/ring.py:RingDataParallel"
    found = by_test(outcomes(tmp_path, ["tests", "--strategy", ring], ranks=3))
    assert {"test_even_shards", "test_uneven_shards"} <= found.keys()
    assert set().union(*found.values()) == {"passed"}


def test_the_wrong_example_is_caught_by_the_test_that_is_named_for_it(tmp_path):
    copy_tree(tmp_path)
    wrong = "tests/examples/mean_of_means.py:MeanOfMeans"
    found = by_test(outcomes(tmp_path, ["tests", "--strategy", wrong], ranks=2))
    assert found["test_uneven_shards"] == {"passed", "failed"}  # with one worker, and with two
    assert found["test_even_shards"] == {"passed"}


@pytest.mark.parametrize(
    "model",
    [
        {"model": "model.py:net", "data": "model.py:rows"},
        {"model": "language_model.py:net", "data": "language_model.py:tokens"},
    ],
    ids=["images", "tokens"],
)
def test_a_model_of_ones_own_is_trained_by_all_of_ours(tmp_path, model):
    """Run the command of the README; nothing is skipped."""
    copy_tree(tmp_path)
    options = [f"--{option}=tests/examples/{name}" for option, name in model.items()]
    found = outcomes(tmp_path, ["tests", *options], ranks=2)
    assert set(found.values()) == {"passed"}


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
    run = launch(2, "tests", "bench", "--strategy", f"{file}:Mine", cwd=ROOT)
    assert run.returncode == pytest.ExitCode.USAGE_ERROR
    assert (run.stdout + run.stderr).count("ERROR") == 1
    assert said in run.stdout + run.stderr


def test_a_run_that_skipped_everything_is_no_success(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(ONE_LAYER)
    run = launch(2, "tests", "--model", f"{file}:net", "-k", "Pipeline-2", cwd=ROOT)
    assert run.returncode == pytest.ExitCode.TESTS_FAILED
    said = "tests/test_user_code.py: every trial was skipped, so nothing is known about your code"
    assert run.stdout.count(said) == 1
