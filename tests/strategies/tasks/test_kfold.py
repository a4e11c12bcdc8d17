"""K-fold trains each model on all rows but a fold's, and counts what it gets right there."""

import json
import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import StandardScaler

import nn
from nn import SGD, Batch
from nn.data import Dataset, load
from nn.lr_schedules import cosine
from strategies.records import from_dict
from strategies.tasks import Workers, kfold
from strategies.tasks.fitting import digest
from strategies.tasks.keys import seeds_of
from strategies.tasks.kfold import KFold
from strategies.tasks.models import as_builders, torch_net
from tests.strategies.tasks.nets import (
    CLASSES,
    COLUMNS,
    MARKER,
    ROWS,
    Dying,
    Living,
    Watching,
    failing,
    numbered_rows,
    small,
    small_torch,
    three_restarts,
    write,
)

pytestmark = [
    pytest.mark.workers(1),
    pytest.mark.filterwarnings("ignore:4 workers share"),  # more workers than cores, on purpose
]

PARTS = 3
HOW: dict[str, Any] = dict(batch_size=8, epochs=2, optimizer=partial(SGD, momentum=0.5))
SCHEDULES: dict[str, Any] = {
    "cosine": partial(cosine, 0.1),
    "restarts": three_restarts,
    "constant": 0.05,
}


def test_each_training_is_plain_training_on_the_other_folds(tmp_path: Path) -> None:
    """Divided, scaled and trained anew here, without the code under test."""
    result = kfold({"small": small}, SCHEDULES, load("file", path=write(tmp_path / "a.npz")), PARTS,
                   seed=5, **HOW)  # fmt: skip
    x, y = numbered_rows()["x"], numbered_rows()["y"]
    splits = StratifiedKFold(PARTS, shuffle=True, random_state=5).split(x, y)
    for number, (train, held) in enumerate(splits):
        scaler = StandardScaler().fit(x[train])
        rows, others = (scaler.transform(x[part]).astype(np.float32) for part in (train, held))
        for name in SCHEDULES:
            task = {"model": "small", "schedule": name, "fold": number}
            weights, order = map(int, seeds_of(task, 5).generate_state(2))
            steps = 2 * 5  # 40 rows in batches of 8
            rates = {"cosine": cosine(0.1, steps), "restarts": three_restarts(steps)}
            model = small(weights)
            optimizer = SGD(rates.get(name, 0.05), momentum=0.5)
            for epoch in range(2):
                turns = np.arange(len(rows), dtype=np.int32)
                np.random.default_rng((order, epoch)).shuffle(turns)
                for lo in range(0, len(rows), 8):
                    batch = Batch(rows[turns[lo : lo + 8]], y[train][turns[lo : lo + 8]])
                    loss = model.gradients(batch)
                    optimizer.step(model.params, model.grads)
            found = result.of("small", name).folds[number]
            assert (found.loss, found.weights) == (loss, digest(model.params))
            right = model.predict(others) == y[held]
            assert found.right == np.bincount(y[held][right], minlength=CLASSES).tolist()
            assert found.rows == np.bincount(y[held]).tolist()
            assert found.accuracy == np.mean(right)


@pytest.mark.parametrize("stratified", [True, False])
def test_folds_are_a_partition_and_no_held_or_test_row_is_trained_on(
    numbered: Dataset, stratified: bool
) -> None:
    Watching.seen.clear()
    result = kfold({"watching": Watching}, {"rate": 0.01}, numbered, PARTS, stratified=stratified,
                   **HOW)  # fmt: skip
    everything = set(range(ROWS))
    assert len(Watching.seen) == PARTS
    for notes in Watching.seen:
        assert notes["trained"] | notes["sorted"] == everything  # no number of a test row
        assert not notes["trained"] & notes["sorted"]
    assert sorted(n for notes in Watching.seen for n in notes["sorted"]) == sorted(everything)
    counts = [fold.rows for fold in result.of("watching", "rate").folds]
    assert np.sum(counts, axis=0).tolist() == CLASSES * [ROWS // CLASSES]
    equal = all(max(count) - min(count) <= 1 for count in counts)
    assert equal == stratified


def test_a_marker_in_a_fold_changes_nothing_that_trains_without_it(tmp_path: Path) -> None:
    def weights(dataset: Dataset) -> list[str]:
        found = kfold({"small": partial(nn.mlp, [2, 5, CLASSES])}, {"rate": 0.01}, dataset, PARTS,
                      **HOW)  # fmt: skip
        return [fold.weights for fold in found.of("small", "rate").folds]

    unmarked = load("file", path=write(tmp_path / "a.npz"), features=2)
    raw = load("file", path=write(tmp_path / "a.npz"), normalise=False)
    before = weights(unmarked)
    for number in range(PARTS):
        marked = numbered_rows()
        held = raw.fold(number, PARTS).x_validation
        assert held is not None
        marked["x"][int(held[0, 0]), 1:] = MARKER
        marked["x_test"][0] = MARKER
        after = weights(load("file", path=write(tmp_path / "b.npz", **marked), features=2))
        same = [a == b for a, b in zip(after, before)]
        assert same == [each == number for each in range(PARTS)]


@pytest.mark.parametrize("executor", [1, 4])
def test_workers_train_the_same_bits_as_one_process(numbered: Dataset, executor: int) -> None:
    serial = kfold({"small": small}, SCHEDULES, numbered, PARTS, **HOW)
    parallel = kfold({"small": small}, SCHEDULES, numbered, PARTS, executor=executor, **HOW)
    assert serial.equals(parallel)


def test_two_workers_train_the_same_bits_as_one_process(numbered: Dataset, pair: Workers) -> None:
    models = {"small": small, "torch": small_torch}
    serial = kfold(models, SCHEDULES, numbered, PARTS, **HOW)
    assert serial.equals(kfold(models, SCHEDULES, numbered, PARTS, executor=pair, **HOW))


def test_a_training_goes_on_to_the_bit_where_its_worker_died(
    numbered: Dataset, pair: Workers
) -> None:
    """Of ten steps, an attempt survives seven; the second begins with the seventh."""
    schedules = {"restarts": three_restarts}
    serial = kfold({"net": Living}, schedules, numbered, PARTS, **HOW)
    dying = {"net": Dying}
    again = kfold(dying, schedules, numbered, PARTS, checkpoint_every=3, executor=pair, **HOW)
    assert [fold.error for fold in again.of("net", "restarts").folds] == PARTS * [None]
    assert again.equals(serial)
    anew = kfold(dying, schedules, numbered, PARTS, executor=pair, **HOW)
    assert all("SIGKILL" in (fold.error or "") for fold in anew.of("net", "restarts").folds)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (dict(epochs=3), "the data is another: epochs. "),
        (
            dict(schedules={"rate": lambda steps: cosine(0.1, steps)}),
            "the data is another: schedules rate",
        ),
        (dict(models={"small": small_torch}), "code"),
        (dict(seed=1), "seed"),
        (dict(k=4), "tasks"),
    ],
)
def test_a_journal_of_another_run_is_refused(numbered: Dataset, tmp_path, changed, words) -> None:
    journal = tmp_path / "journal"
    asked: dict[str, Any] = dict(
        models={"small": small}, schedules={"rate": 0.1}, dataset=numbered, k=PARTS, **HOW
    )
    first = kfold(**asked, journal=journal)
    kept = journal.read_bytes()
    often: dict[str, Any] = dict(checkpoint_every=2, print_every=100)  # no part of what is trained
    assert kfold(**asked, **often, journal=journal).equals(first)
    assert journal.read_bytes() == kept  # nothing has been trained anew
    with pytest.raises(ValueError, match=f"is of another run.*{words}"):
        kfold(**(asked | changed), journal=journal)


def test_a_journal_knows_local_functions_by_their_code(numbered: Dataset, tmp_path) -> None:
    def asked(momentum: float) -> dict[str, Any]:
        return HOW | dict(
            models={"m": lambda seed: small(seed)},
            schedules={"s": lambda steps: cosine(0.1, steps)},
            dataset=numbered,
            k=PARTS,
            journal=tmp_path / "journal",
            optimizer=lambda schedule: SGD(schedule, momentum=momentum),
        )

    assert kfold(**asked(0.5)).equals(kfold(**asked(0.5)))
    with pytest.raises(ValueError, match="the data is another: optimizer"):
        kfold(**asked(0.6))


def test_mean_spread_and_classes(numbered: Dataset) -> None:
    scores = kfold({"small": small}, {"rate": 0.1}, numbered, PARTS, **HOW).of("small", "rate")
    shares = [sum(fold.right) / sum(fold.rows) for fold in scores.folds]
    assert scores.accuracies == shares
    assert scores.mean == pytest.approx(np.mean(shares))
    assert scores.spread == pytest.approx(np.std(shares, ddof=1))
    right = np.sum([fold.right for fold in scores.folds], axis=0)
    assert scores.of_class == pytest.approx(right / (ROWS / CLASSES))


def test_nets_of_numpy_and_torch_and_a_loss(numbered: Dataset) -> None:
    pytest.importorskip("torch")
    loss = nn.loss.CrossEntropy(label_smoothing=0.1)
    models = {"numpy": small, "torch": small_torch}
    plain = kfold(models, {"rate": 0.01}, numbered, PARTS, **HOW)
    smoothed = kfold(models, {"rate": 0.01}, numbered, PARTS, loss=loss, **HOW)
    for name in models:
        assert len(set(plain.of(name, "rate").accuracies)) >= 1
        assert plain.of(name, "rate").folds[0].error is None
        a, b = (found.of(name, "rate").folds[0].weights for found in (plain, smoothed))
        assert a != b


def test_a_training_that_fails_leaves_its_error_and_the_others_go_on(numbered: Dataset) -> None:
    result = kfold({"failing": failing, "small": small}, {"rate": 0.1}, numbered, PARTS, **HOW)
    failed, sound = result.of("failing", "rate"), result.of("small", "rate")
    assert all("this net cannot be built" in (fold.error or "") for fold in failed.folds)
    assert math.isnan(failed.mean)
    assert sound.mean > 0.3
    assert not result.equals(result)
    assert "nan%" in str(result)


def test_seeds_belong_to_the_task(numbered: Dataset) -> None:
    both = kfold({"a": small, "b": small}, {"rate": 0.1}, numbered, PARTS, **HOW)
    one = kfold({"b": small}, {"rate": 0.1}, numbered, PARTS, **HOW)
    other = kfold({"b": small}, {"rate": 0.1}, numbered, PARTS, seed=1, **HOW)
    weights = [fold.weights for each in both.scores for fold in each.folds]
    assert len(set(weights)) == 2 * PARTS
    assert one.equals(KFold.from_dict({**both.as_dict(), "scores": both.as_dict()["scores"][1:]}))
    assert not one.equals(other)


def test_the_result_is_a_record_and_a_table(numbered: Dataset) -> None:
    result = kfold({"small": small}, SCHEDULES, numbered, PARTS, **HOW)
    there = from_dict(json.loads(json.dumps(result.as_dict())))
    assert there == result
    assert len(str(result).splitlines()) == 1 + len(SCHEDULES)
    assert "class 2" in result.of_classes()
    assert result.beside(result).count("yes") == len(SCHEDULES)
    assert "speedup 1.00" in result.beside(result)


def test_progress_is_printed_where_it_is_asked_for(numbered: Dataset, capsys) -> None:
    kfold({"small": small}, {"rate": 0.1}, numbered, PARTS, print_every=4, **HOW)
    said = [line for line in capsys.readouterr().out.splitlines() if "step" in line]
    assert len(said) == 2 * PARTS
    assert said[0].startswith("small, rate, fold 0: step 4 of 10, loss ")


def test_nets_by_name_are_those_of_the_zoo() -> None:
    iris, digits = load("iris"), load("digits", 1_000)
    assert as_builders(["mlp"], iris)["mlp"](seed=1).offsets[-1] == 5 * 256 + 257 * 128 + 129 * 3
    lenet = as_builders(["lenet"], digits)["lenet"](seed=1)
    np.testing.assert_array_equal(lenet.params, nn.lenet(seed=1).params)
    components = load("digits", 1_000, features=400)
    by_components = as_builders(["mlp", "cnn"], components)
    assert by_components["mlp"](seed=1).input_shape == (400,)
    assert by_components["cnn"](seed=1).input_shape == (1, 20, 20)
    assert by_components["cnn"](seed=1).predict(components.x[:2]).shape == (2,)
    with pytest.raises(ValueError, match="images of 28x28"):
        as_builders(["lenet"], iris)
    pytest.importorskip("torch")
    for name in ("vgg11", "mobilenet"):
        net = torch_net(name, 10, (1, 28, 28), seed=1, width=2)
        assert net.predict(digits.x[:2]).shape == (2,)


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        (dict(models="mlp"), TypeError, r"expected a list of names, e\.g\. \['mlp'\]"),
        (dict(models={}), ValueError, "models is empty"),
        (dict(models={"a": small(0)}), TypeError, "expected a function that builds a model"),
        (dict(schedules={}), ValueError, "schedules is empty"),
        (dict(schedules=["cosine"]), TypeError, "expected a dict"),
        (dict(schedules={"a": "cosine"}), TypeError, "expected a rate, or a function"),
        (dict(schedules={"a": -0.1}), ValueError, "schedules"),
        (dict(k=1), ValueError, "of=1"),
        (dict(k=40), ValueError, "fewer parts"),
        (dict(dataset=np.zeros(3)), TypeError, "expected a set"),
        (dict(batch_size=0), ValueError, "batch_size=0"),
        (dict(epochs=0), ValueError, "epochs=0"),
        (dict(print_every=0), ValueError, "print_every=0"),
        (dict(checkpoint_every=0), ValueError, "checkpoint_every=0"),
        (dict(optimizer=SGD(0.1)), TypeError, "optimizer"),
    ],
)
def test_wrong_arguments_are_refused(numbered: Dataset, changed, error, words) -> None:
    arguments: dict[str, Any] = dict(
        models={"a": small}, schedules={"b": 0.1}, dataset=numbered, k=PARTS, **HOW
    )
    with pytest.raises(error, match=words):
        kfold(**(arguments | changed))


def test_a_schedule_that_is_made_already_is_refused_by_its_training(numbered: Dataset) -> None:
    schedules: Any = {"b": cosine(0.1, 10)}
    result = kfold({"a": small}, schedules, numbered, PARTS, **HOW)
    assert "give the function that makes it" in (result.of("a", "b").folds[0].error or "")


def test_a_set_of_other_rows_is_refused(numbered: Dataset) -> None:
    mine = Dataset("mine", numbered.x, numbered.y, numbered.x_test, numbered.y_test, CLASSES)
    assert mine.x.shape[1] == COLUMNS
    with pytest.raises(ValueError, match=r"expected a set from nn\.data\.load"):
        kfold({"a": small}, {"b": 0.1}, mine, PARTS, **HOW)
