"""Rows that validate are training rows, train nothing, and leave no trace in what is fitted."""

import pickle
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from mpi4py import MPI
from numpy.typing import NDArray

from nn.data import Dataset, Fold, load

pytestmark = pytest.mark.workers(1)  # nothing here depends on the number of ranks

ROWS, CLASSES, PARTS = 60, 3, 4
MARKER = 1e4
"""A value far from all others: whatever is fitted with it shows it."""


def numbered(x: NDArray | None = None) -> dict[str, NDArray]:
    """Rows of a set of its own; column 0 is the row's number."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((ROWS, 4))
    rows[:, 0] = np.arange(ROWS)
    return {
        "x": rows if x is None else x,
        "y": np.arange(ROWS) % CLASSES,
        "x_test": -rows[:8],
        "y_test": np.arange(8) % CLASSES,
    }


@pytest.fixture
def path(tmp_path: Path) -> Path:
    np.savez(tmp_path / "rows.npz", **numbered())  # type: ignore[arg-type]
    return tmp_path / "rows.npz"


def numbers(x: NDArray | None) -> list[int]:
    assert x is not None
    return sorted(int(row[0]) for row in x)


def held_out(dataset: Dataset) -> tuple[NDArray, NDArray]:
    assert dataset.x_validation is not None
    assert dataset.y_validation is not None
    return dataset.x_validation, dataset.y_validation


def parts(dataset: Dataset, **options) -> list[Dataset]:
    return [dataset.fold(number, PARTS, **options) for number in range(PARTS)]


def test_a_share_is_taken_from_the_training_rows_with_every_class_in_proportion(path) -> None:
    whole = load("file", path=path, normalise=False)
    dataset = load("file", path=path, normalise=False, validation=0.2)
    held = numbers(dataset.x_validation)
    assert sorted(numbers(dataset.x) + held) == numbers(whole.x) == [*range(ROWS)]
    assert np.bincount(held_out(dataset)[1]).tolist() == [4, 4, 4]
    for name in ("x_test", "y_test"):
        np.testing.assert_array_equal(getattr(dataset, name), getattr(whole, name))
    for x, y in ((dataset.x, dataset.y), held_out(dataset)):
        np.testing.assert_array_equal(x[:, 0].astype(int) % CLASSES, y)
    again = load("file", path=path, normalise=False, validation=0.2, seed=1)
    assert numbers(again.x_validation) != held  # drawn by the seed
    assert "12 validation" in repr(dataset)


def test_a_share_is_taken_from_the_rows_that_size_keeps() -> None:
    whole, dataset = load("iris", 100), load("iris", 100, normalise=False, validation=0.1)
    assert (len(whole.x), len(dataset.x), len(held_out(dataset)[0])) == (100, 90, 10)
    assert whole.x_validation is whole.y_validation is None


@pytest.mark.parametrize("stratified", [True, False])
def test_folds_are_a_partition(path, stratified) -> None:
    whole = load("file", path=path, normalise=False)
    folds = parts(whole, stratified=stratified, seed=3)
    held = [numbers(fold.x_validation) for fold in folds]
    assert sorted(chain.from_iterable(held)) == [*range(ROWS)]
    for fold, rows in zip(folds, held):
        assert sorted(numbers(fold.x) + rows) == [*range(ROWS)]
        np.testing.assert_array_equal(fold.x_test, whole.x_test)
    counts = [np.bincount(held_out(fold)[1], minlength=CLASSES).tolist() for fold in folds]
    assert (counts == PARTS * [[5, 5, 5]]) == stratified
    other = whole.fold(0, PARTS, stratified, seed=4)
    assert numbers(other.x_validation) != held[0]


@pytest.mark.parametrize("features", [None, 2])
def test_a_marker_in_a_held_row_or_a_test_row_reaches_nothing_that_is_fitted(
    path, tmp_path, features
) -> None:
    before = parts(load("file", path=path, features=features))
    raw = parts(load("file", path=path, normalise=False))
    for number, fold in enumerate(raw):
        marked = numbered()
        marked["x"][numbers(fold.x_validation)[0], 1:] = MARKER
        marked["x_test"][3, 1:] = MARKER
        np.savez(tmp_path / "marked.npz", **marked)  # type: ignore[arg-type]
        after = parts(load("file", path=tmp_path / "marked.npz", features=features))
        for i, (a, b) in enumerate(zip(after, before)):
            assert np.array_equal(a.x, b.x) == (i == number), f"marker in {number}, fold {i}"
        assert np.abs(held_out(after[number])[0]).max() > 100  # scaled by others, it stands out
        assert np.abs(after[number].x_test).max() > 100


def test_each_fold_is_normalised_by_its_own_training_rows(path) -> None:
    for fold in parts(load("file", path=path)):
        np.testing.assert_allclose(fold.x.mean(axis=0), 0, atol=1e-6)
        np.testing.assert_allclose(fold.x.std(axis=0), 1, rtol=1e-6)
        assert np.abs(held_out(fold)[0].mean(axis=0)).max() > 1e-3


def sent(value):
    """Send a value as it goes to another process."""
    return MPI.COMM_SELF.sendrecv(value, 0, source=0)


def test_a_set_is_pickled_without_its_rows(path, monkeypatch) -> None:
    monkeypatch.chdir(path.parent)
    dataset, whole = load("file", path=path.name, validation=0.2), load("file", path=path.name)
    assert len(pickle.dumps(dataset)) < 2_000
    assert f"path={str(path)!r}, validation=0.2" in str(dataset.reload)
    monkeypatch.chdir("/")
    there = sent(dataset)
    for name in ("x", "y", "x_validation", "y_validation", "x_test", "y_test"):
        np.testing.assert_array_equal(getattr(there, name), getattr(dataset, name))
    marked = numbered()
    marked["x"][0] = MARKER
    np.savez(path, **marked)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="has changed since it was loaded"):
        sent(dataset)
    with pytest.raises(ValueError, match="has changed since it was loaded"):
        whole.fold(0, 2)


def test_a_changed_copy_is_pickled_with_its_rows(path) -> None:
    dataset = load("file", path=path)
    changed = replace(dataset, x=dataset.x + 1)
    np.testing.assert_array_equal(sent(changed).x, dataset.x + 1)
    with pytest.raises(ValueError, match=r"expected a set from nn\.data\.load"):
        changed.fold(0, 2)


@pytest.mark.parametrize(
    ("validation", "error", "words"),
    [
        (0, ValueError, "above 0 and below 1"),
        (1.0, ValueError, "validation"),
        (float("nan"), ValueError, "validation"),
        ("0.2", TypeError, "expected a number"),
        (True, TypeError, "expected a number"),
        (0.001, ValueError, r"iris: 128 training rows cannot be divided by validation=0\.001"),
        (Fold(0, 60), ValueError, "fewer parts"),
        (Fold(0, 200, stratified=False), ValueError, "fewer parts"),
    ],
)
def test_what_cannot_be_divided_is_refused(validation, error, words) -> None:
    with pytest.raises(error, match=words):
        load("iris", validation=validation)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((2, 2), ValueError, "number=2: expected from 0 to 1"),
        ((0, 1), ValueError, "of=1: expected 2 or more"),
        ((0.0, 2), TypeError, "number"),
        ((0, 2, 1), TypeError, "stratified=1"),
        ((0, 2, True, -1), ValueError, "seed"),
    ],
)
def test_a_fold_that_is_none_is_refused(arguments, error, words) -> None:
    with pytest.raises(error, match=words):
        Fold(*arguments)


def test_a_set_with_validation_rows_is_neither_divided_nor_saved(tmp_path) -> None:
    dataset = load("iris", validation=0.2)
    with pytest.raises(ValueError, match="set aside already"):
        dataset.fold(0, 2)
    with pytest.raises(ValueError, match="no place for validation rows"):
        dataset.save(tmp_path / "iris.npz")
