"""CIFAR-10 is read from the user's files; without them, a set of its shape is painted."""

import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

import nn
from nn.data import load
from nn.data.sets import cifar10
from tests.nn.data.samples import accuracy_of_class_means

pytestmark = pytest.mark.workers(1)  # nothing here depends on the number of ranks

ROWS = 20
NAMES = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the six files of the binary version, each with 20 rows."""
    monkeypatch.setattr(cifar10, "ROWS", ROWS)
    for number, name in enumerate(NAMES):
        (tmp_path / name).write_bytes(b"".join(row(number, i) for i in range(ROWS)))
    return tmp_path


def row(file: int, number: int) -> bytes:
    """A label and three planes in the authors' format: a gradient down, one across, and a dot."""
    red = b"".join(bytes([file * 8 + line]) * 32 for line in range(32))
    green = bytes(range(32)) * 32
    blue = bytes(number) + b"\xff" + bytes(1023 - number)
    return bytes([number % 10]) + red + green + blue


def test_rows_labels_and_planes_are_where_the_format_has_them(folder: Path) -> None:
    dataset = load("cifar10", path=folder, normalise=False)
    assert repr(dataset) == (
        "<Dataset cifar10: 100 training and 20 test rows, 3072 features, 10 classes>"
    )
    images = dataset.x.reshape(5, ROWS, 3, 32, 32)
    assert [images[i, 0, 0, 2, 9] for i in range(5)] == [2, 10, 18, 26, 34]  # red: line 2
    assert (images[:, :, 1, 7] == np.arange(32)).all()
    assert (images[:, :, 2, 0].argmax(axis=-1) == np.arange(ROWS)).all()
    assert (dataset.x_test.reshape(ROWS, 3, 32, 32)[:, 0, 0] == 40).all()
    assert (dataset.y == np.tile(np.arange(10), 10)).all()
    assert (dataset.y_test == np.tile(np.arange(10), 2)).all()


def test_all_pixels_are_normalised_alike(folder: Path) -> None:
    x = load("cifar10", path=folder).x
    assert x.mean(dtype=np.float64) == pytest.approx(0, abs=1e-6)
    assert x.std(dtype=np.float64) == pytest.approx(1, rel=1e-6)


def test_the_folder_that_the_archive_unpacks_to_is_found(folder: Path) -> None:
    inside = folder / "cifar-10-batches-bin"
    inside.mkdir()
    for name in NAMES:
        (folder / name).rename(inside / name)
    assert len(load("cifar10", path=folder).x) == len(load("cifar10", path=inside).x) == 100


def test_a_folder_may_have_any_name_and_other_files(folder: Path) -> None:
    mine = folder / "python_data"
    mine.mkdir()
    for name in NAMES:
        (folder / name).rename(mine / name)
    (mine / "data_batch_1").write_bytes(
        b"pickled"
    )  # a file of the pickled version, which is not read
    assert len(load("cifar10", path=mine).x) == 100
    (mine / "data_batch_1").unlink()
    (mine / NAMES[-1]).unlink()
    with pytest.raises(FileNotFoundError, match=r"test_batch\.bin: no such file"):
        load("cifar10", path=mine)


def test_changed_files_are_another_set(folder: Path) -> None:
    before = load("cifar10", path=folder, normalise=False).x.copy()
    contents = bytearray((folder / NAMES[2]).read_bytes())
    contents[1] ^= 255
    (folder / NAMES[2]).write_bytes(contents)
    assert (load("cifar10", path=folder, normalise=False).x != before).sum() == 1


WHOLE = b"".join(row(0, i) for i in range(ROWS))


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"", "0 bytes; expected 61,460, 20 rows of a label and 3,072 pixel values"),
        (WHOLE[:-1], "61,459 bytes; expected 61,460"),
        (WHOLE[: 19 * 3073], "58,387 bytes; expected 61,460"),
        (WHOLE + WHOLE[:3073], "64,533 bytes; expected 61,460"),
        (WHOLE[: 7 * 3073] + b"\x0a" + WHOLE[7 * 3073 + 1 :], "label 10 in row 7; expected 0 to 9"),
    ],
)
@pytest.mark.parametrize("name", [NAMES[3], NAMES[-1]])
def test_damaged_files(folder: Path, name: str, contents: bytes, message: str) -> None:
    (folder / name).write_bytes(contents)
    with pytest.raises(ValueError, match=message) as caught:
        load("cifar10", path=folder)
    assert str(folder / name) in str(caught.value)


def test_files_have_ten_thousand_rows(tmp_path: Path) -> None:
    for name in NAMES:
        (tmp_path / name).write_bytes(WHOLE)
    with pytest.raises(ValueError, match="61,460 bytes; expected 30,730,000, 10,000 rows"):
        load("cifar10", path=tmp_path)


def test_missing_files(folder: Path) -> None:
    (folder / NAMES[4]).unlink()
    with pytest.raises(FileNotFoundError, match=r"data_batch_5\.bin: no such file; expected the"):
        load("cifar10", path=folder)
    with pytest.raises(FileNotFoundError, match="no such file; expected the folder of the binary"):
        load("cifar10", path=folder / "nowhere")
    with pytest.raises(ValueError, match=r"data_batch_1\.bin: not a folder; expected the folder"):
        load("cifar10", path=folder / NAMES[0])


def test_the_pickled_version_is_refused_unread(tmp_path: Path) -> None:
    class Tripwire:
        def __reduce__(self) -> tuple[Callable, tuple]:
            return (tmp_path / "tripped").touch, ()

    unpacked = tmp_path / "cifar-10-batches-py"
    unpacked.mkdir()
    archive = tmp_path / "cifar-10-python.tar.gz"
    np.array([Tripwire()]).dump(unpacked / "data_batch_1")
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(unpacked)
    for path in (unpacked, unpacked / "data_batch_1", archive, tmp_path):
        with pytest.raises(ValueError, match=r"is pickled.*expected the folder") as e:
            load("cifar10", path=path)
        assert str(path) in str(e.value)
    assert not (tmp_path / "tripped").exists()


def arrays(seed: int) -> list[NDArray]:
    raw = cifar10.make(1_001, seed)
    assert raw.x_test is not None
    assert raw.y_test is not None
    return [raw.x, raw.y, raw.x_test, raw.y_test]


def test_the_painted_set() -> None:
    first, again, other = arrays(3), arrays(3), arrays(4)
    assert [a.shape for a in first] == [(1_001, 3_072), (1_001,), (200, 3_072), (200,)]
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(first[0], other[0])
    assert not {image.tobytes() for image in first[0]} & {image.tobytes() for image in first[2]}
    for a in first[1::2]:
        assert set(a) == set(range(10))
    with pytest.raises(ValueError, match="size=999: expected from 1,000 to 50,000 images"):
        load("cifar10", size=999)


def test_every_chunk_is_painted_with_random_numbers_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    draws = []

    def record(labels: NDArray, rng: np.random.Generator) -> NDArray:
        draws.append(int(rng.integers(1 << 62)))
        return labels[:, None]

    monkeypatch.setattr(cifar10, "paint", record)
    cifar10.make(5_000, seed=0)
    assert len(set(draws)) == len(draws) == 5 + 1  # chunks of 1,000, of both parts


def test_the_painted_set_is_not_called_by_another_name() -> None:
    dataset = load("cifar10", size=1_000)
    assert dataset.name == "cifar10-shaped"
    assert "CIFAR" not in repr(dataset)


def test_labels_are_the_number_of_petals_and_the_hole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Petals are counted in white flowers on black, by the strongest harmonic around the middle."""
    hues = []

    def black_then_white(hue: NDArray) -> NDArray:
        hues.append(hue)
        return np.full((len(hue), 3, 1, 1), len(hues) - 1.0)

    monkeypatch.setattr(cifar10, "_colour", black_then_white)
    monkeypatch.setattr(cifar10, "_NOISE", 0)
    monkeypatch.setattr(ndimage, "gaussian_filter", lambda noise, sigma: 0 * noise)
    labels = np.arange(400) % 10
    images = cifar10.paint(labels, np.random.default_rng(0)).reshape(400, 3, 32, 32)[:, 0]
    petals, hollow = [], []
    for image in images:
        middle = np.array(ndimage.center_of_mass(image))
        down, right = np.indices((32, 32)) - middle[:, None, None]
        circle = image * np.hypot(down, right)
        waves = [np.exp(1j * k * np.arctan2(down, right)) for k in range(2, 7)]
        petals.append(2 + np.argmax([abs((circle * wave).sum()) for wave in waves]))
        hollow.append(image[tuple(np.rint(middle).astype(int))] < 128)
    assert np.mean(np.array(petals) == 2 + labels % 5) > 0.85
    assert np.mean(np.array(hollow) == (labels >= 5)) > 0.95
    assert np.std(hues[1] - labels / 10) == pytest.approx(0.15, rel=0.1)


def test_the_painted_set_is_learnable_but_not_by_the_means_of_its_pixels() -> None:
    dataset = load("cifar10", size=2_000)
    assert 0.1 < accuracy_of_class_means(dataset) < 0.25
    model, optimizer = nn.lenet(input_shape=(3, 32, 32)), nn.Adam(0.002)
    for batch in dataset.batches(50, epochs=2):
        model.gradients(batch)
        optimizer.step(model.params, model.grads)
    logits = model.forward(dataset.x_test.reshape(-1, 3, 32, 32))[0]
    assert (logits.argmax(axis=1) == dataset.y_test).mean() > 0.25
