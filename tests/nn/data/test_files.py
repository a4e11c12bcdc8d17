"""Data sets from the user's files hold exactly what is in the files."""

import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from nn.data import Dataset, load
from nn.data.formats import arrays
from nn.data.raw import Raw
from tests.nn.data.samples import MNIST_TEST, accuracy_of_class_means, idx, images, write_mnist

pytestmark = pytest.mark.workers(1)  # nothing here depends on the number of ranks

ARRAYS = ("x", "y", "x_test", "y_test")


def assert_same(a: Dataset, b: Dataset) -> None:
    assert a.classes == b.classes
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)


@pytest.mark.parametrize("mark", "-.")
@pytest.mark.parametrize("zipped", [False, True])
def test_idx_folder(tmp_path: Path, zipped: bool, mark: str) -> None:
    write_mnist(tmp_path, "train", 60, zipped, mark)
    write_mnist(tmp_path, "t10k", 20, zipped, mark)
    dataset = load("mnist", path=tmp_path, normalise=False)
    for part, x, y in (("train", dataset.x, dataset.y), ("t10k", dataset.x_test, dataset.y_test)):
        pixels, labels = images(len(y), seed=len(part))
        np.testing.assert_array_equal(x, pixels.reshape(-1, 784))
        np.testing.assert_array_equal(y, labels)
    assert (len(dataset.x), len(dataset.x_test), dataset.classes) == (60, 20, 10)


def test_one_part_alone_is_divided(tmp_path: Path) -> None:
    write_mnist(tmp_path, "t10k", 140)
    dataset = load("mnist", path=tmp_path, normalise=False)
    assert (len(dataset.x), len(dataset.x_test)) == (120, 20)
    assert list(np.bincount(dataset.y_test)) == [2] * 10
    rows = np.concatenate([dataset.x, dataset.x_test])
    wanted = images(140, seed=4)[0].reshape(-1, 784)
    assert {row.tobytes() for row in rows} == {row.tobytes() for row in wanted.astype(np.float32)}


@pytest.mark.parametrize("kind", ["images-idx3", "labels-idx1"])
def test_one_file_finds_its_partner(tmp_path: Path, kind: str) -> None:
    write_mnist(tmp_path, "train", 60)
    write_mnist(tmp_path, "t10k", 140)
    assert len(load("mnist", path=tmp_path / f"t10k-{kind}-ubyte").x) == 120


def test_of_two_files_the_one_asked_for_is_read(tmp_path: Path) -> None:
    write_mnist(tmp_path, "train", 70)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images(70)[0] // 2)))
    plain, zipped = (
        load("mnist", path=tmp_path / f"train-images-idx3-ubyte{end}", normalise=False).x
        for end in ("", ".gz")
    )
    assert (plain.max(), zipped.max()) == (255, 127)


def test_gzip_is_known_by_content(tmp_path: Path) -> None:
    write_mnist(tmp_path, "train", 70, zipped=True)
    for file in list(tmp_path.glob("*.gz")):
        file.rename(file.with_suffix(""))
    assert len(load("mnist", path=tmp_path).x) == 60


@pytest.mark.parametrize("suffix", [".npz", ".mat"])
@pytest.mark.parametrize("arguments", [{"name": "iris"}, {"name": "digits", "size": 1_000}])
def test_export_and_back(tmp_path: Path, suffix: str, arguments: dict) -> None:
    dataset = load(**arguments)
    dataset.save(tmp_path / f"set{suffix}")
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == [f"set{suffix}"]
    assert_same(load("file", path=tmp_path / f"set{suffix}", normalise=False), dataset)


def test_export_is_readable_by_others(tmp_path: Path) -> None:
    dataset = load("iris")
    dataset.save(tmp_path / "set.mat")
    dataset.save(str(tmp_path / "set.npz"))
    for found in (scipy.io.loadmat(tmp_path / "set.mat"), np.load(tmp_path / "set.npz")):
        np.testing.assert_array_equal(found["x"], dataset.x)
        np.testing.assert_array_equal(found["y_test"].ravel(), dataset.y_test)


def test_a_failed_export_leaves_the_old_file(tmp_path: Path, monkeypatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise OSError("disk full")

    dataset = load("iris")
    dataset.save(tmp_path / "set.npz")
    before = (tmp_path / "set.npz").read_bytes()
    monkeypatch.setattr(np.lib.format, "write_array", fail)
    with pytest.raises(OSError, match="disk full"):
        dataset.save(tmp_path / "set.npz")
    assert (tmp_path / "set.npz").read_bytes() == before
    assert {file.name for file in tmp_path.iterdir()} == {"cache", "set.npz"}


def test_who_reads_the_old_file_while_it_is_replaced_reads_on(tmp_path: Path) -> None:
    dataset = load("iris")
    dataset.save(tmp_path / "set.npz")
    before = (tmp_path / "set.npz").read_bytes()
    with (tmp_path / "set.npz").open("rb") as old:
        load("iris", size=50).save(tmp_path / "set.npz")
        assert old.read() == before


def test_export_to_another_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected a name that ends in \.npz or \.mat"):
        load("iris").save(tmp_path / "set.csv")


def test_mnist_in_npz_as_keras_ships_it(tmp_path: Path) -> None:
    (x, y), (x_test, y_test) = images(60), images(20, seed=1)
    np.savez(tmp_path / "mnist.npz", x_train=x, y_train=y, x_test=x_test, y_test=y_test)
    dataset = load("mnist", path=tmp_path / "mnist.npz", normalise=False)
    np.testing.assert_array_equal(dataset.x, x.reshape(60, 784))
    np.testing.assert_array_equal(dataset.y_test, y_test)


@pytest.mark.parametrize(("version", "compressed"), [("4", False), ("5", False), ("5", True)])
def test_matlab_doubles_rows_and_columns(tmp_path: Path, version: str, compressed: bool) -> None:
    x, y = images(70)
    matrix = x.reshape(70, 784).astype(np.float64) / 255
    for labels in (y[:, None], y[None, :]):
        scipy.io.savemat(
            tmp_path / "a.mat",
            {"x": matrix, "y": labels.astype(np.float64), "note": "not an array of numbers"},
            format=version,
            do_compression=compressed,
        )
        dataset = load("mnist", path=tmp_path / "a.mat", normalise=False)
        rows = np.concatenate([dataset.x, dataset.x_test])
        assert {r.tobytes() for r in rows} == {r.tobytes() for r in matrix.astype(np.float32)}


def test_a_changed_file_is_read_anew(tmp_path: Path) -> None:
    x, y = images(70)
    path = tmp_path / "a.npz"
    np.savez(path, x=x, y=y)
    before = load("mnist", path=path, normalise=False).x.sum()
    np.savez(path, x=x // 2, y=y)
    assert load("mnist", path=path, normalise=False).x.sum() < 0.6 * before


def test_a_file_that_changes_while_it_is_read_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = images(70)
    path = tmp_path / "a.npz"
    np.savez(path, x=x, y=y)
    before, read = path.read_bytes(), arrays.read

    def replaced(path: Path) -> Raw:
        np.savez(path, x=x // 2, y=y)
        return read(path)

    with monkeypatch.context() as patch:
        patch.setattr(arrays, "read", replaced)
        with pytest.raises(ValueError, match=r"a\.npz: changed while it was read; load it again"):
            load("file", path=path, normalise=False)
    path.write_bytes(before)
    assert load("file", path=path, normalise=False).x.max() == 255


def test_fortran_order(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(14, 3)).astype(np.float32)
    y = np.arange(14) % 2
    np.savez(tmp_path / "a.npz", x=np.asfortranarray(x), y=y, x_test=x, y_test=y)
    np.testing.assert_array_equal(load("file", path=tmp_path / "a.npz", normalise=False).x, x)


def test_values_beyond_float32_are_normalised_in_double(tmp_path: Path) -> None:
    x, y = np.random.default_rng(0).normal(size=(14, 3)), np.arange(14) % 2
    for name, scale in (("a", 1), ("b", 2.0**150)):
        np.savez(tmp_path / f"{name}.npz", x=x * scale, y=y, x_test=x, y_test=y)
    a, b = (load("file", path=tmp_path / f"{name}.npz") for name in "ab")
    np.testing.assert_array_equal(a.x, b.x)


def test_classes_that_do_not_occur(tmp_path: Path) -> None:
    x, y = np.eye(28), np.arange(28) % 2 * 4
    np.savez(tmp_path / "a.npz", x=x, y=y)
    with pytest.raises(ValueError, match="2 different labels from 0 to 4; expected 0 to 1, or an"):
        load("file", path=tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", x=x, y=y, classes=7)
    assert load("file", path=tmp_path / "b.npz").classes == 7


@pytest.mark.skipif(
    not MNIST_TEST.is_dir(), reason=f"no folder ../{'/'.join(MNIST_TEST.parts[-3:])}"
)
def test_the_real_mnist_test_images() -> None:
    file = MNIST_TEST / "t10k-images-idx3-ubyte.gz"
    assert hashlib.md5(file.read_bytes()).hexdigest() == "9fb629c4189551a2d022fa330f9573f3"
    pixels = np.frombuffer(gzip.decompress(file.read_bytes()), np.uint8, offset=16)
    plain = load("mnist", path=MNIST_TEST, normalise=False)
    assert (plain.x.shape, plain.x_test.shape, plain.classes) == ((8_571, 784), (1_429, 784), 10)
    both = np.concatenate([plain.x, plain.x_test]).sum(axis=0, dtype=np.float64)
    np.testing.assert_array_equal(both, pixels.reshape(-1, 784).sum(axis=0, dtype=np.float64))
    assert accuracy_of_class_means(plain) > 0.78
