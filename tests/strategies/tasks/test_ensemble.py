"""An ensemble combines what its members have learned, and is fitted on rows they have not seen."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression

import nn
from nn import SGD
from nn.data import Dataset, load
from strategies.records import from_dict
from strategies.tasks import Ensemble, EnsembleScores, Workers
from strategies.tasks.combining import Stacked, hard, soft
from strategies.tasks.keys import seeds_of
from tests.strategies.tasks.nets import (
    CLASSES,
    ROWS,
    Dying,
    Living,
    Watching,
    failing,
    learnable_rows,
    small,
    small_torch,
    wide,
    write,
)

pytestmark = pytest.mark.workers(1)

HOW: dict[str, Any] = dict(
    batch_size=8, epochs=2, schedules=0.1, optimizer=partial(SGD, momentum=0.5)
)
MODELS: dict[str, Any] = {"small": small, "wide": partial(wide, width=9)}


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return load("file", path=write(tmp_path / "rows.npz", **learnable_rows()))


def votes(seed: int = 0, members: int = 3, rows: int = 200) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [softmax(rng.standard_normal((rows, CLASSES)), axis=1) for _ in range(members)]


def test_a_soft_vote_is_the_largest_mean() -> None:
    found = soft(votes())
    for row, label in enumerate(found):
        means = [sum(member[row][c] for member in votes()) / 3 for c in range(CLASSES)]
        assert means[label] == max(means)
    assert not np.array_equal(found, hard(votes()))


def test_a_hard_vote_is_the_class_that_most_choose_and_the_first_of_equal_ones() -> None:
    for row, label in enumerate(hard(votes())):
        chosen = sorted(int(member[row].argmax()) for member in votes())
        counts = {c: chosen.count(c) for c in chosen}
        assert label == min(c for c in counts if counts[c] == max(counts.values()))


def test_stacking_is_logistic_regression_on_all_probabilities() -> None:
    y = np.random.default_rng(9).integers(0, CLASSES, 200)
    expected = LogisticRegression(max_iter=1_000).fit(np.hstack(votes()), y)
    others = votes(seed=1)
    found = Stacked(votes(), y)(others)
    np.testing.assert_array_equal(found, expected.predict(np.hstack(others)))
    assert len(set(found)) == CLASSES


def test_scores_are_those_of_members_that_are_trained_by_themselves(dataset: Dataset) -> None:
    """Members are trained anew here, and combined without the code under test."""
    found = Ensemble(MODELS, **HOW).fit(dataset, k=3, repeats=2, seed=4)

    def trained(name: str, repeat: int, fold: int, rows: Dataset) -> nn.Model:
        task = {"member": name, "repeat": repeat, "fold": fold}
        weights, order = map(int, seeds_of(task, 4).generate_state(2))
        model = MODELS[name](seed=weights)
        optimizer = SGD(0.1, momentum=0.5)
        for batch in rows.batches(8, 2, order):
            model.gradients(batch)
            optimizer.step(model.params, model.grads)
        return model

    def chances(model: nn.Model, x: Any) -> Any:
        return softmax(model.forward(x)[0], axis=1)

    folds = [dataset.fold(i, 3, seed=4) for i in range(3)]
    y = np.concatenate([fold.y_validation for fold in folds])
    for repeat in range(2):
        tests = [chances(trained(n, repeat, -1, dataset), dataset.x_test) for n in MODELS]
        unseen = [
            np.concatenate([chances(trained(n, repeat, i, f), f.x_validation)
                            for i, f in enumerate(folds)])
            for n in MODELS
        ]  # fmt: skip
        learner = LogisticRegression(max_iter=1_000).fit(np.hstack(unseen).astype(float), y)
        stacked = learner.predict(np.hstack(tests).astype(float))
        right = {
            **{n: each.argmax(axis=1) for n, each in zip(MODELS, tests)},
            "soft": (tests[0].astype(float) + tests[1]).argmax(axis=1),
            "stacked": stacked,
        }
        for name, predicted in right.items():
            score = (found.members | found.combinations)[name][repeat]
            assert score == np.mean(predicted == dataset.y_test), name


def test_no_member_predicts_for_the_meta_learner_what_it_was_trained_on(tmp_path: Path) -> None:
    numbered = load("file", path=write(tmp_path / "rows.npz"), normalise=False)
    Watching.seen.clear()
    models: dict[str, Any] = {"a": Watching, "b": partial(Watching, width=3)}
    how = {**HOW, "schedules": 1e-4}
    Ensemble(models, **how).fit(numbered, k=3, repeats=2)
    trained = [notes for notes in Watching.seen if notes["trained"]]
    assert len(trained) == 2 * 2 * (1 + 3)
    tested = {int(number) for number in numbered.x_test[:, 0]}
    for notes in trained:
        assert not notes["trained"] & (notes["sorted"] | tested)
        everything = notes["trained"] | notes["sorted"] == set(range(ROWS))
        assert everything or notes["sorted"] == tested


def test_workers_train_the_same_members_as_one_process(dataset: Dataset, pair: Workers) -> None:
    models: dict[str, Any] = MODELS | {"torch": small_torch}
    ensembles = [Ensemble(models, **HOW) for _ in range(2)]
    serial, parallel = (
        ensemble.fit(dataset, k=2, repeats=2, executor=executor)
        for ensemble, executor in zip(ensembles, (None, pair))
    )
    assert (serial.members, serial.combinations) == (parallel.members, parallel.combinations)
    for one, other in zip(*(each.probabilities(dataset.x_test) for each in ensembles)):
        np.testing.assert_array_equal(one, other)


def test_it_predicts_as_it_was_scored(dataset: Dataset) -> None:
    ensemble = Ensemble(MODELS, **HOW)
    found = ensemble.fit(dataset, k=2, repeats=2)
    for way, shares in found.combinations.items():
        right = ensemble.predict(dataset.x_test, way) == dataset.y_test
        assert np.mean(right) == shares[0]
    for name, chances in zip(MODELS, ensemble.probabilities(dataset.x_test)):
        assert np.mean(chances.argmax(axis=1) == dataset.y_test) == found.members[name][0]


def test_an_ensemble_goes_on_from_its_journal(dataset: Dataset, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    whole = Ensemble(MODELS, **HOW).fit(dataset, k=2, repeats=2, journal=journal)
    kept = journal.read_bytes()
    ensemble = Ensemble(MODELS, **HOW)
    again = ensemble.fit(dataset, k=2, repeats=2, journal=journal)
    assert journal.read_bytes() == kept  # nothing has been trained anew
    assert again.combinations == whole.combinations
    right = ensemble.predict(dataset.x_test) == dataset.y_test
    assert np.mean(right) == whole.combinations["soft"][0]


def test_a_member_goes_on_from_its_checkpoint_when_its_worker_died(
    dataset: Dataset, pair: Workers
) -> None:
    """Its net dies at the eighth step of each attempt; it is the same net beside that."""
    scores, how = [], {**HOW, "batch_size": 10}  # twelve steps at most
    for net in (Living, Dying):
        models: dict[str, Any] = {"small": small, "other": net}
        ensemble = Ensemble(models, **how)
        scores.append(ensemble.fit(dataset, k=2, repeats=2, checkpoint_every=1, executor=pair))
    assert scores[0].members == scores[1].members
    assert scores[0].combinations == scores[1].combinations


@pytest.mark.parametrize("is_kept", [False, True])
def test_a_failed_training_says_what_is_kept(
    dataset: Dataset, tmp_path: Path, is_kept: bool
) -> None:
    ensemble = Ensemble({"small": small, "failing": failing}, **HOW)
    journal = tmp_path / "journal" if is_kept else None
    says = f"kept in journal={journal}: the same call" if is_kept else "lost: with journal="
    with pytest.raises(RuntimeError, match=f"6 of 12 trainings have ended well. They are {says}"):
        ensemble.fit(dataset, k=2, repeats=2, journal=journal)


@pytest.mark.parametrize(
    ("soft_shares", "gain", "pays"),
    [([0.85, 0.85, 0.87], 0.04, False), ([0.9, 0.88, 0.95], 0.0933, True)],
)
def test_a_gain_is_compared_with_the_spread_over_seeds(soft_shares, gain, pays) -> None:
    members = {"a": [0.7, 0.7, 0.7], "b": [0.75, 0.8, 0.9]}
    found = EnsembleScores("d", 2, 3, 0, 8, 1, "None", 1.0, members, {"soft": soft_shares})
    assert found.best_member == "b"
    assert found.spread == pytest.approx(np.std([0.75, 0.8, 0.9], ddof=1))
    assert found.gain("soft") == pytest.approx(gain, abs=1e-4)
    assert found.pays("soft") == pays
    assert ("not more" in str(found)) == (not pays)
    assert from_dict(json.loads(json.dumps(found.as_dict()))) == found


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        (dict(models={"a": small}), ValueError, "expected at least two members"),
        (dict(schedules={"small": 0.1}), ValueError, "expected one for each"),
        (dict(optimizer=SGD(0.1)), TypeError, "optimizer"),
        (dict(batch_size=0), ValueError, "batch_size=0"),
        (dict(epochs=0), ValueError, "epochs=0"),
    ],
)
def test_wrong_arguments_are_refused(changed, error, words) -> None:
    with pytest.raises(error, match=words):
        Ensemble(**{"models": MODELS, **HOW, **changed})


def test_what_cannot_be_fitted_is_refused(dataset: Dataset) -> None:
    ensemble = Ensemble(MODELS, **HOW)
    with pytest.raises(ValueError, match="call fit first"):
        ensemble.predict(dataset.x)
    with pytest.raises(ValueError, match="repeats=1: expected 2 or more"):
        ensemble.fit(dataset, repeats=1)
    with pytest.raises(ValueError, match="checkpoint_every=0"):
        ensemble.fit(dataset, checkpoint_every=0)
    with pytest.raises(ValueError, match="fewer parts"):
        ensemble.fit(dataset, k=40)
    with pytest.raises(RuntimeError, match="this net cannot be built"):
        Ensemble({"small": small, "failing": failing}, **HOW).fit(dataset, k=2, repeats=2)
    ensemble.fit(dataset, k=2, repeats=2)
    with pytest.raises(ValueError, match="way='median'"):
        ensemble.predict(dataset.x, "median")


@pytest.fixture(autouse=True)
def _emptied() -> Iterator[None]:
    yield
    Watching.seen.clear()
