"""A search finds the configuration that is best on validation rows, and tests it once."""

import contextlib
import io
import json
from concurrent.futures import Executor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import loguniform, randint
from sklearn.model_selection import ParameterGrid, ParameterSampler

import nn
from nn.data import Dataset, load
from strategies.records import from_dict
from strategies.tasks import Workers, search, train_configuration
from strategies.tasks.search import Search
from tests.strategies.tasks.nets import (
    CLASSES,
    Watching,
    learnable_rows,
    small_torch,
    wide,
    wide_or_failing,
    write,
)

pytestmark = [
    pytest.mark.workers(1),
    pytest.mark.filterwarnings("ignore:4 workers share"),  # more workers than cores, on purpose
]

SPACE: dict[str, Any] = {
    "lr": [0.3, 0.1, 0.01],
    "width": [2, 3, 8],
    "batch_size": 8,
    "epochs": 4,
}
HALVING: dict[str, Any] = dict(eta=2, least=1)
WAYS: dict[str, dict[str, Any]] = {
    "grid": {},
    "random": dict(trials=4),
    "halving": HALVING,
    "asha": HALVING | dict(at_once=3),
}


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return load("file", path=write(tmp_path / "rows.npz", **learnable_rows()), validation=0.3)


def right(model: Any, x: Any, y: Any) -> float:
    return float(np.mean(model.predict(x) == y))


def test_a_grid_trains_every_configuration_and_tests_the_best(dataset: Dataset) -> None:
    found = search(SPACE, dataset)
    assert [{name: trial.configuration[name] for name in SPACE} for trial in found.trials] == list(
        ParameterGrid({name: np.ravel(value).tolist() for name, value in SPACE.items()})
    )
    accuracies = []
    for trial in found.trials:
        again = train_configuration(trial.configuration, dataset)
        accuracy = right(again.model, dataset.x_validation, dataset.y_validation)
        assert trial.rungs[0].accuracy == accuracy == again.score.accuracy
        assert trial.rungs[0].epochs == again.history.epochs == 4
        accuracies.append(accuracy)
    assert len(set(accuracies)) > 2
    assert (found.best, found.accuracy) == (int(np.argmax(accuracies)), max(accuracies))
    best = train_configuration(found.configuration, dataset)
    assert found.test_accuracy == right(best.model, dataset.x_test, dataset.y_test)


@pytest.mark.parametrize("how", WAYS)
def test_test_rows_are_looked_at_once_and_trained_on_never(tmp_path: Path, how: str) -> None:
    path = write(tmp_path / "rows.npz")
    dataset = load("file", path=path, normalise=False, validation=0.3)
    Watching.seen.clear()
    space = {**SPACE, "lr": [0.001, 0.002, 0.003]}
    search(space, dataset, model=Watching, how=how, **WAYS[how])
    held = {int(number) for number in np.ravel(dataset.x_validation[:, :1])}  # type: ignore[index]
    tested = {int(number) for number in dataset.x_test[:, 0]}
    assert not any(notes["trained"] & (held | tested) for notes in Watching.seen)
    assert [notes["sorted"] & tested for notes in Watching.seen if notes["sorted"] & tested] == [
        tested
    ]
    assert all(held <= notes["sorted"] for notes in Watching.seen)


@pytest.mark.parametrize("how", WAYS)
def test_the_winner_is_chosen_on_validation_rows(tmp_path: Path, how: str) -> None:
    """Test labels are wrong, so that the best on validation rows is not the best on test rows."""
    rows = learnable_rows()
    rows["y_test"] = (rows["y_test"] + 1) % CLASSES
    dataset = load("file", path=write(tmp_path / "wrong.npz", **rows), validation=0.3)
    found = search(SPACE, dataset, how=how, **WAYS[how])
    last = [trial.rungs[-1] for trial in found.trials]
    most = max(rung.epochs for rung in last)
    accuracies = [rung.accuracy if rung.epochs == most else -1.0 for rung in last]
    assert found.accuracy == max(accuracies) > 0.6
    assert found.best == accuracies.index(max(accuracies))
    tests = [
        right(train_configuration(t.configuration, dataset).model, dataset.x_test, dataset.y_test)
        for t in found.trials
    ]
    assert found.test_accuracy == tests[found.best] < max(tests)


@pytest.mark.parametrize("how", ["halving", "asha"])
def test_rungs_go_on_from_checkpoints_to_the_bits_of_one_training(dataset: Dataset, how) -> None:
    whole = {t.number: t.rungs[-1] for t in search(SPACE, dataset).trials}
    found = search({**SPACE, "schedule": "cosine"}, dataset, how=how, **WAYS[how])
    grid = search({**SPACE, "schedule": "cosine"}, dataset)
    promoted = [trial for trial in found.trials if trial.rungs[-1].epochs == 4]
    assert promoted
    for trial in promoted:
        last = grid.trials[trial.number].rungs[-1]
        assert (trial.rungs[-1].weights, trial.rungs[-1].accuracy) == (last.weights, last.accuracy)
        assert last.weights != whole[trial.number].weights  # the schedule has a part in it
    assert [rung.epochs for rung in promoted[0].rungs] == [1, 2, 4]


def test_a_rung_trains_only_what_the_rung_below_has_not(dataset: Dataset, monkeypatch) -> None:
    steps, plain = [], nn.Model.gradients

    def counted(self: nn.Model, *args: Any) -> float:
        steps.append(1)
        return plain(self, *args)

    monkeypatch.setattr(nn.Model, "gradients", counted)
    found = search(SPACE, dataset, how="halving", **HALVING)
    an_epoch = dataset.steps_per_epoch(8)
    assert len(steps) == an_epoch * sum(trial.rungs[-1].epochs for trial in found.trials)


@pytest.mark.parametrize("executor", [1, 2, 4])
def test_halving_decides_the_same_with_any_number_of_workers(
    dataset: Dataset, pair: Workers, executor: Any
) -> None:
    serial = search(SPACE, dataset, how="halving", **HALVING)
    executor = pair if executor == 2 else executor
    parallel = search(SPACE, dataset, how="halving", executor=executor, **HALVING)
    assert parallel.decisions() == serial.decisions()
    assert (parallel.best, parallel.test_accuracy) == (serial.best, serial.test_accuracy)


def test_a_replay_of_asha_takes_the_same_decisions(dataset: Dataset, pair: Workers) -> None:
    first = search(SPACE, dataset, how="asha", executor=pair, **HALVING)
    for executor in (None, pair):
        again = search(
            SPACE, dataset, how="asha", executor=executor, at_once=2, replay=first.order, **HALVING
        )
        assert again.order == first.order
        assert again.decisions() == first.decisions()
        assert again.best == first.best


def test_a_replay_of_another_search_is_refused(dataset: Dataset) -> None:
    with pytest.raises(ValueError, match="the order of a search with the same arguments"):
        search(SPACE, dataset, how="asha", replay=[(5, 2)], **HALVING)


class BrokenOff(KeyboardInterrupt):
    """Ends the whole run, as Ctrl-C does."""


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("after", [1, 3])
def test_a_search_that_was_broken_off_goes_on_and_decides_the_same(
    dataset: Dataset, tmp_path: Path, monkeypatch, how: str, after: int
) -> None:
    whole = search(SPACE, dataset, how=how, **WAYS[how])
    builds: list[int] = []

    def counted(self, *args: Any, **kwargs: Any) -> None:
        plain(self, *args, **kwargs)
        builds.append(1)
        if len(builds) == after + 1:
            raise BrokenOff

    plain = nn.Model.__init__
    monkeypatch.setattr(nn.Model, "__init__", counted)
    journal = tmp_path / "journal"
    with contextlib.suppress(BrokenOff):
        search(SPACE, dataset, how=how, journal=journal, **WAYS[how])
    assert len(builds) == after + 1
    resumed = search(SPACE, dataset, how=how, journal=journal, **WAYS[how])
    assert resumed.decisions() == whole.decisions()
    assert (resumed.best, resumed.test_accuracy) == (whole.best, whole.test_accuracy)
    jobs = sum(len(trial.rungs) for trial in whole.trials)
    assert len(builds) == jobs + 2  # one was broken off, and one is the test
    search(SPACE, dataset, how=how, journal=journal, **WAYS[how])
    assert len(builds) == jobs + 2  # all of it stands in the journal, the test too


@pytest.mark.parametrize("executor", [None, "pair"])
def test_asha_with_trials_that_fail_goes_on_and_decides_the_same(
    request, dataset: Dataset, tmp_path: Path, executor
) -> None:
    """From any line of its journal, of any number of jobs at once; it tests one trial."""
    executor = request.getfixturevalue("pair") if executor else None
    space = {**SPACE, "width": [3, 2, 8], "lr": [0.3, 0.2, 0.1, 0.05, 0.02, 0.01]}
    asked: dict[str, Any] = dict(model=wide_or_failing, how="asha", at_once=4, eta=2)
    journal = tmp_path / "journal"
    whole = search(space, dataset, journal=journal, executor=executor, **asked)
    assert sum(trial.rungs[0].error is not None for trial in whole.trials) == 6
    text = journal.read_text()
    again = search(space, dataset, journal=journal, **asked)
    assert journal.read_text() == text
    lines = text.splitlines(keepends=True)
    assert [json.loads(line)["task"]["rows"] for line in lines[1:]].count("test") == 1
    assert (again.order, again.best) == (whole.order, whole.best)
    journal.write_text("".join(lines[: len(lines) // 2]))
    resumed = search(space, dataset, journal=journal, **asked)
    kept = [json.loads(line)["task"] for line in journal.read_text().splitlines()[1:]]
    assert [task["rows"] for task in kept].count("test") == 1
    told = [(task["trial"], task["rung"]) for task in kept[:-1]]
    assert resumed.order == list(dict.fromkeys(told[::-1]))[::-1]  # a failure at the end, again
    replayed = search(space, dataset, replay=resumed.order, **asked)
    assert replayed.best == resumed.best


def test_a_search_does_not_go_on_with_weights_of_other_rows(
    dataset: Dataset, tmp_path: Path
) -> None:
    rows = learnable_rows()
    rows["x"] = rows["x"][:, ::-1].copy()
    other = load("file", path=write(tmp_path / "other.npz", **rows), validation=0.3)
    journal = tmp_path / "journal"
    first = search(SPACE, dataset, journal=journal)
    journal.unlink()
    found = search(SPACE, other, journal=journal)
    assert found.decisions() == search(SPACE, other).decisions() != first.decisions()


@pytest.mark.parametrize(
    "options",
    [
        {},
        dict(model=wide),
        dict(model=partial(wide), loss=nn.loss.CrossEntropy(), seed=3),
        dict(how="asha", at_once=4, trials=4, eta=3, least=2),
    ],
)
def test_the_line_trains_the_best_again(dataset: Dataset, options) -> None:
    found = search(SPACE, dataset, **options)
    assert "\n" not in found.line
    if "loss" in options:
        assert "loss=<" in found.line or "loss=CrossEntropy" in found.line
        return
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(found.line, {})
    assert f"{found.epochs} epochs, {found.accuracy:.2%} of the validation rows" in said.getvalue()


def test_random_configurations_are_those_of_scikit_learn(dataset: Dataset) -> None:
    space = {"lr": loguniform(1e-3, 1e-1), "width": randint(2, 9), "batch_size": 8, "epochs": 1}
    found = search(space, dataset, how="random", trials=5, seed=2)
    lists = {name: [v] if isinstance(v, int) else v for name, v in space.items()}
    expected = list(ParameterSampler(lists, 5, random_state=2))
    tried = [{name: trial.configuration[name] for name in space} for trial in found.trials]
    assert tried == expected
    assert all(type(each["width"]) is int for each in tried)


def test_a_search_of_distributions_goes_on_from_its_journal_wherever_it_lies(
    dataset: Dataset, tmp_path: Path
) -> None:
    space = {"lr": loguniform(1e-3, 1e-1), "width": randint(2, 9), "batch_size": 8, "epochs": 1}
    asked: dict[str, Any] = dict(how="random", trials=3)
    first = search(space, dataset, journal=tmp_path / "journal", **asked)
    np.random.rand()  # noqa: NPY002  # distributions carry the generator that numpy shares
    moved = (tmp_path / "journal").rename(tmp_path / "moved")
    text = moved.read_text()
    again = search(space, dataset, journal=moved, checkpoint_every=1, **asked)
    assert again.decisions() == first.decisions()
    assert moved.read_text() == text
    with pytest.raises(ValueError, match="the data is another: how_trained model"):
        search(space, dataset, journal=moved, model=wide, **asked)


def test_layers_widths_and_optimizers_of_the_usual_net(dataset: Dataset) -> None:
    space = {**SPACE, "layers": [0, 2], "width": 7, "optimizer": ["sgd", "adam"], "lr": 0.01}
    lengths = set()
    for trial in search(space, dataset).trials:
        model = train_configuration(trial.configuration, dataset).model
        lengths.add((trial.configuration["layers"], model.offsets[-1]))
    assert lengths == {(0, 4 * 3 + 3), (2, 4 * 7 + 7 + 7 * 7 + 7 + 7 * 3 + 3)}


def test_nets_of_torch(dataset: Dataset) -> None:
    pytest.importorskip("torch")
    space = {"lr": [0.1, 0.01], "batch_size": 8, "epochs": 2}
    found = search(space, dataset, model=small_torch, how="halving", eta=2)
    assert (
        found.decisions()
        == search(space, dataset, model=small_torch, how="halving", eta=2).decisions()
    )


def test_a_trial_that_fails_leaves_its_error_and_loses(dataset: Dataset) -> None:
    for how in ("grid", "halving"):
        found = search(SPACE, dataset, model=wide_or_failing, how=how)
        failed = [t for t in found.trials if t.configuration["width"] == 3]
        assert len(failed) == 3
        assert all("cannot be built" in (t.rungs[-1].error or "") for t in failed)
        assert found.configuration["width"] != 3
    with pytest.raises(RuntimeError, match="this net cannot be built"):
        search({**SPACE, "width": 3}, dataset, model=wide_or_failing)


def test_the_result_is_a_record_and_a_table(dataset: Dataset) -> None:
    found = search(SPACE, dataset, how="asha", **HALVING)
    there = from_dict(json.loads(json.dumps(found.as_dict())))
    assert isinstance(there, Search)
    assert there == found
    lines = str(found).splitlines()
    assert len(lines) == 1 + 9 + 2
    assert sum(line.endswith("best") for line in lines) == 1
    assert lines[-1] == found.line


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        (dict(how="bayes"), ValueError, "how='bayes': expected one of grid, random"),
        (dict(trials=3), ValueError, 'expected how="random"'),
        (dict(how="random"), ValueError, "expected a number of trials"),
        (dict(how="random", trials=10), ValueError, "only 9 configurations"),
        (dict(how="halving", at_once=2), ValueError, "at_once"),
        (dict(how="halving", eta=1), ValueError, "eta=1"),
        (dict(space=[1]), TypeError, "expected a dict"),
        (dict(space={"lr": 0.1}), ValueError, "lacks batch_size, epochs"),
        (dict(space={**SPACE, "lr": []}), ValueError, "lr is empty"),
        (dict(space={**SPACE, "lr": loguniform(0.1, 1)}), TypeError, "lr is a distribution"),
        (dict(space={**SPACE, "lr": -1.0}), ValueError, "lr"),
        (dict(space={**SPACE, "depth": 2}), ValueError, "the space does not fit the model"),
        (dict(space={**SPACE, "optimizer": "lion"}), ValueError, "optimizer='lion'"),
        (dict(space={**SPACE, "schedule": "step"}), ValueError, "schedule='step'"),
        (dict(space={**SPACE, "epochs": [2, 4]}, how="halving"), ValueError, "one value, the most"),
        (dict(how="asha", executor=Executor()), ValueError, "expected at_once="),
        (dict(dataset=load), TypeError, "dataset"),
        (dict(optimizers={"sgd": 3}), TypeError, r"optimizers\['sgd'\]=3: expected a function"),
    ],
)
def test_wrong_arguments_are_refused(dataset: Dataset, changed, error, words) -> None:
    with pytest.raises(error, match=words):
        search(**(dict(space=SPACE, dataset=dataset) | changed))


def test_a_set_without_validation_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="has no validation rows"):
        search(SPACE, load("iris"))
