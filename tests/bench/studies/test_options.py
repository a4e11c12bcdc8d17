"""What the command line of the studies of whole trainings says, and what they make of it."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench.studies import conftest
from bench.studies.conftest import Chosen, chosen_by
from bench.studies.kfold import over_ideal
from nn.data import Dataset
from strategies.tasks.kfold import FoldScore, KFold, Scores
from tests.strategies.tasks.nets import ROWS, write

pytestmark = pytest.mark.workers(1)


def chosen(*line: str) -> Chosen:
    """What the options of a command line choose."""
    parser = pytest.Parser(_ispytest=True)
    conftest.pytest_addoption(parser)
    found = parser.parse(line)
    config: Any = SimpleNamespace(getoption=lambda name: getattr(found, name))
    return chosen_by(config)


def test_without_options_studies_choose() -> None:
    found = vars(chosen())
    assert found == dict.fromkeys(found, None) | {"classic": False}
    assert chosen().names("mlp", "lenet") == ["mlp", "lenet"]


def test_each_option_says_what_it_is_named_for() -> None:
    line = "--set file --set-path a/b.npz --rows 30 --epochs 4 --folds 5 --nets cnn,vgg11"
    line += " --batch-sizes 8,16 --target 0.9 --trials 7 --seeds 2"
    found = chosen(*line.split())
    assert found == Chosen("file", Path("a/b.npz"), 30, 4, 5, "8,16", 0.9, 7, 2, "cnn,vgg11", False)
    assert found.names("mlp") == ["cnn", "vgg11"]
    assert chosen("--classic").classic


def test_digits_are_few_and_files_and_sets_of_one_size_are_read_whole(monkeypatch) -> None:
    asked: list[Any] = []

    def load(name: str, rows: int | None, **more: Any) -> None:
        asked.append((name, rows, more))

    monkeypatch.setattr(conftest, "load", load)
    chosen().data(validation=0.2)
    chosen("--set", "mnist", "--set-path", "here").data()
    chosen("--set", "mnist", "--set-path", "here", "--rows", "50").data(10_000)
    chosen("--set", "mnist-5k").data(10_000)
    chosen("--set", "letters").data(10_000)
    assert asked == [
        ("digits", 2_000, {"path": None, "validation": 0.2}),
        ("mnist", None, {"path": Path("here")}),
        ("mnist", 50, {"path": Path("here")}),
        ("mnist-5k", None, {"path": None}),
        ("letters", 10_000, {"path": None}),
    ]


def test_rows_of_a_file_are_loaded(tmp_path) -> None:
    path = write(tmp_path / "rows.npz")
    found = chosen("--set", "file", "--set-path", str(path)).data()
    assert isinstance(found, Dataset)
    assert len(found.y) == ROWS


@pytest.mark.parametrize(
    ("seconds", "count", "expected"),
    [
        ([[1.0, 2.0], [3.0, 4.0]], 2, 6.0 / 5.0),  # an even share of 10 seconds
        ([[1.0, 2.0], [3.0, 4.0]], 1, 6.0 / 10.0),
        ([[0.5, 0.5], [0.5, 4.0]], 2, 6.0 / 4.0),  # the longest
    ],
)
def test_a_run_is_compared_with_the_least_that_its_trainings_can_take(
    seconds, count, expected
) -> None:
    scores = [
        Scores("net", f"{i}", [FoldScore(seconds=each) for each in folds])
        for i, folds in enumerate(seconds)
    ]
    result = KFold("set", 2, True, 0, 8, 1, "2 workers", 6.0, scores)
    assert over_ideal(result, count) == pytest.approx(expected)
