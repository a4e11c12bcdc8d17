"""The tables of results that are no cells, from results whose figures are known."""

import math
from dataclasses import replace

import pytest

from bench.report.kinds import History, Mutant, Promise, Proof, Transfer
from bench.report.proofs import Comparison
from bench.report.table import render
from strategies.records import Run
from strategies.training import Evaluation
from tests.bench.report.test_tables import rows

pytestmark = pytest.mark.workers(1)


def test_a_transfer_is_shown_in_microseconds_and_gigabytes_a_second():
    (row,) = rows(Transfer("Allreduce", 2, 10**6, 0.00025, False), first="Allreduce")
    assert row == ["Allreduce", "2", "1,000,000", "250.0", "4.00"]


def test_a_transfer_of_more_workers_than_cores_is_marked():
    (row,) = rows(Transfer("Allreduce", 8, 10**6, 0.00025, True), first="Allreduce")
    assert row[1] == "8†"


TRAINING = History(
    *("digits", 1000, 64, 2, 0, 0, "ZeRO", 2, "ahead"),
    loss=[2.5, 1.25],
    seconds=[0.5, 1.0],
    samples=[64, 128],
    learning_rate=[math.nan, 0.1],
    evaluations=[
        Evaluation(1, 0.5, 0.5, {"accuracy": 0.5}),
        Evaluation(2, 1.0, 0.5, {"accuracy": 0.875}),
    ],
)


def test_trainings_alike_are_a_row_of_medians():
    """The last loss and the last evaluation of each; what has no step yet is no training."""
    slow = replace(TRAINING, seconds=[4.0, 8.0], loss=[2.5, 2.25], evaluations=[])
    fast = replace(TRAINING, seconds=[0.25, 0.5])
    (row,) = rows(TRAINING, slow, fast, replace(TRAINING, loss=[]), first="ahead")
    expected = "ahead ZeRO digits 2 3 1.00 0.5000 128 1.2500 accuracy 0.875"
    assert row == expected.split()


@pytest.mark.parametrize(
    "change",
    [{"workers": 3}, {"strategy": "Other"}, {"dataset": "iris"}, {"name": "behind"}],
    ids=str,
)
def test_trainings_that_differ_have_rows_of_their_own(change):
    other = replace(TRAINING, **change)
    found = [rows(TRAINING, other, first=name) for name in {TRAINING.name, other.name}]
    assert sum(map(len, found)) == 2


def test_the_tests_of_a_file_are_a_row():
    """A test that passes against its expectation has failed; the worst error counts."""
    outcomes = ("passed", "failed", "xpassed", "xfailed", "skipped", "skipped", "skipped")
    errors = (1e-14, 5e-13)
    proofs = [Proof(f"tests/test_a.py::test[{i}]", o, 1, 0.1) for i, o in enumerate(outcomes)]
    proofs += [
        Proof("tests/test_a.py::test_b", "passed", 2, 0.1, "", [Comparison("S", "n", 3, e, 1e-12)])
        for e in errors
    ]
    proofs.append(
        Proof("tests/test_a.py::test_c", "passed", 2, 0.1, "", [Comparison("S", "n", 3, 0.0, 0.0)])
    )
    (row,) = rows(*proofs, first="tests/test_a.py")
    assert row == ["tests/test_a.py", "10", "2", "3", "5e-01"]


def coloured(record, text):
    """The colour in which a text is shown."""
    shown = render(Run(records=[record]), 120, colour=True)
    before = shown[: shown.index(text)]
    codes = before.rpartition("\x1b[")[2].partition("m")[0].split(";")
    return {"31": "red", "32": "green", "33": "yellow"}.get(codes[-1])


@pytest.mark.parametrize(
    ("value", "colour"), [(1.5, "green"), (1.625, "yellow"), (math.nan, "yellow")]
)
def test_a_broken_promise_is_yellow(value, colour):
    assert coloured(Promise("a / b", value, 1.5), f"{value:.3f}") == colour


def test_a_mutant_that_nothing_catches_is_red():
    caught = Mutant("caught", "a bug", "nn/a.py", ["tests/a.py::test", "tests/b.py::test"])
    survivor = Mutant("survivor", "a bug", "nn/a.py", [])
    assert rows(caught, survivor, first="caught") == [["caught", "2", "tests"]]
    assert rows(caught, survivor, first="survivor") == [["survivor", "none"]]
    assert coloured(survivor, "none") == "red"
