"""The sets that need no file are as described, and preparation does to rows what it says."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from nn.data import Dataset, distortions, load
from nn.data.sets import digits
from tests.nn.data.samples import accuracy_of_class_means

pytestmark = pytest.mark.workers(1)  # nothing here depends on the number of ranks


def arrays(dataset: Dataset) -> list[NDArray]:
    return [dataset.x, dataset.y, dataset.x_test, dataset.y_test]


def test_iris() -> None:
    iris = load("iris")
    assert (iris.x.shape, iris.x_test.shape, iris.classes) == ((128, 4), (22, 4), 3)
    assert min(np.bincount(iris.y)) >= 42  # stratified: 50 of each in all
    assert min(np.bincount(iris.y_test)) >= 7
    np.testing.assert_allclose(iris.x.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(iris.x.std(axis=0), 1, rtol=1e-6)
    assert accuracy_of_class_means(iris) > 0.75


def test_digits() -> None:
    dataset = load("digits", size=1_001)
    assert (dataset.x.shape, dataset.x_test.shape) == ((1_001, 784), (166, 784))
    assert (dataset.x.dtype, dataset.y.dtype, dataset.classes) == (np.float32, np.int64, 10)
    assert dataset.x.mean(dtype=np.float64) == pytest.approx(0, abs=1e-6)
    assert dataset.x.std(dtype=np.float64) == pytest.approx(1, rel=1e-6)
    assert set(dataset.y) == set(dataset.y_test) == set(range(10))
    assert accuracy_of_class_means(dataset) > 0.8


def test_the_embedded_digits_are_not_called_by_another_name() -> None:
    assert "mnist" not in repr(load("digits", size=1_000)).lower()


def test_no_test_image_is_a_distortion_of_a_training_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distortions, "distort", lambda glyphs, rng: glyphs[:, 2:30, 2:30] * 255)
    raw = digits.make(3_000, seed=4)
    assert raw.x_test is not None
    train, test = ({image.tobytes() for image in x} for x in (raw.x, raw.x_test))
    assert not train & test
    assert len(train | test) == len({g.tobytes() for g in digits.originals()[0][:, 2:30, 2:30]})


def test_every_chunk_draws_distortions_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = []

    def record(glyphs: NDArray, rng: np.random.Generator) -> NDArray:
        draws.append(int(rng.integers(1 << 62)))
        return glyphs[:, 2:30, 2:30]

    monkeypatch.setattr(distortions, "distort", record)
    digits.make(12_500, seed=0)
    assert len(set(draws)) == len(draws) == 13 + 3  # chunks of 1,000, of both parts


def test_distortions_are_as_strong_in_the_last_chunk_as_in_the_first() -> None:
    raw = digits.make(2_500, seed=0)
    ink = [raw.x[lo : lo + 500].mean() for lo in (0, 1_000, 2_000)]
    np.testing.assert_allclose(ink, ink[0], rtol=0.05)


def test_sets_are_a_function_of_the_seed(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    first, other = load("digits", size=1_000), load("digits", size=1_000, seed=1)
    assert not np.array_equal(first.x, other.x)
    monkeypatch.setenv("LOCKSTEP_CACHE", str(tmp_path / "empty"))
    for a, b in zip(arrays(first), arrays(load("digits", size=1_000)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_prepared_set_cannot_be_written_to() -> None:
    with pytest.raises(ValueError, match="read-only"):
        load("iris").x[0] = 0


def test_size_chooses_from_all_of_a_sorted_set(tmp_path: Path) -> None:
    y = np.repeat(np.arange(4), 50)
    x = np.arange(200.0)[:, None]
    np.savez(tmp_path / "a.npz", x=x, y=y, x_test=x, y_test=y)
    chosen = [
        load("file", size=60, seed=seed, path=tmp_path / "a.npz", normalise=False)
        for seed in (0, 1)
    ]
    for dataset in chosen:
        assert len(set(dataset.x[:, 0])) == 60
        np.testing.assert_array_equal(dataset.y, dataset.x[:, 0] // 50)
        assert min(np.bincount(dataset.y, minlength=4)) >= 8
        assert len(dataset.x_test) == 200
    assert set(chosen[0].x[:, 0]) != set(chosen[1].x[:, 0])


def test_size_chooses_training_rows() -> None:
    full, part, less = load("iris"), load("iris", size=60), load("iris", size=30)
    assert (part.x.shape, part.x_test.shape) == ((60, 4), (22, 4))
    np.testing.assert_array_equal(part.y_test, full.y_test)
    np.testing.assert_array_equal(less.y, part.y[:30])


def test_principal_components_are_those_of_the_training_rows() -> None:
    plain, reduced = load("digits", size=1_000), load("digits", size=1_000, features=30)
    pca = PCA(30, svd_solver="full").fit(plain.x.astype(np.float64))
    assert reduced.x.shape == (1_000, 30)
    # Components are unique up to sign; scikit-learn makes it a convention.
    np.testing.assert_allclose(reduced.x, pca.transform(plain.x), atol=2e-3)
    np.testing.assert_allclose(reduced.x_test, pca.transform(plain.x_test), atol=2e-3)


@pytest.mark.parametrize("features", [None, 3])
def test_nothing_is_fitted_on_test_rows(tmp_path, features: int | None) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(3, 2, (40, 5)), np.arange(40) % 2
    prepared = []
    for shift in (0, 1_000):
        path = tmp_path / f"{shift}.npz"
        np.savez(path, x=x, y=y, x_test=x[:8] + shift, y_test=y[:8])
        prepared.append(load("file", path=path, features=features))
    np.testing.assert_array_equal(prepared[0].x, prepared[1].x)
    assert abs(prepared[1].x_test).max() > 100
    np.testing.assert_allclose(prepared[0].x_test, prepared[0].x[:8], rtol=1e-5, atol=1e-6)


def test_a_constant_column_is_only_shifted(tmp_path) -> None:
    x = np.random.default_rng(0).normal(size=(40, 2))
    x[:, 1] = 0.1  # whose mean over 40 rows is not exactly 0.1
    np.savez(tmp_path / "a.npz", x=x, y=np.arange(40) % 2)
    np.testing.assert_allclose(load("file", path=tmp_path / "a.npz").x[:, 1], 0, atol=1e-9)


def test_not_normalised() -> None:
    pixels = load("digits", size=1_000, normalise=False).x
    assert (pixels.min(), pixels.max()) == (0, 255)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"name": "cifar"},
            ValueError,
            "expected one of cifar10, digits, file, iris, letters, mnist",
        ),
        ({"name": None}, ValueError, "expected one of"),
        ({"name": "digits", "size": 999}, ValueError, "size=999: expected from 1,000 to 70,000"),
        ({"name": "digits", "size": 70_001}, ValueError, "expected from 1,000 to 70,000"),
        ({"name": "digits", "size": 1e4}, TypeError, "size=10000.0: expected a whole number"),
        ({"name": "iris", "size": 129}, ValueError, "size=129: iris has 128 training rows"),
        ({"name": "iris", "size": 0}, ValueError, "size=0: expected 1 or more"),
        ({"name": "iris", "size": True}, TypeError, "size=True: expected a whole number"),
        ({"name": "iris", "features": 5}, ValueError, "expected at most 4 features"),
        ({"name": "iris", "features": 0}, ValueError, "features=0: expected 1 or more"),
        ({"name": "iris", "features": 2.0}, TypeError, "features=2.0: expected a whole"),
        ({"name": "iris", "features": 4, "size": 3}, ValueError, "expected at most 3 features"),
        ({"name": "iris", "seed": -1}, ValueError, "seed=-1: expected from 0"),
        ({"name": "iris", "seed": 2**32}, ValueError, "expected from 0 to 4294967295"),
        ({"name": "iris", "seed": None}, TypeError, "seed=None: expected a whole"),
        ({"name": "iris", "normalise": "yes"}, TypeError, "expected True or False"),
        ({"name": "iris", "path": "x"}, ValueError, "iris: expected no path="),
        ({"name": "mnist"}, ValueError, 'expected path=.*without any, use "digits"'),
        ({"name": "file"}, ValueError, "expected path="),
    ],
)
def test_wrong_arguments(arguments: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        load(**arguments)
