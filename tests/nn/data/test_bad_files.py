"""Damaged, foreign and hostile files raise an error that names the file, and never make a set."""

import gzip
import io
import os
import struct
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from numpy.typing import ArrayLike

from nn.data import load
from tests.nn.data.samples import idx, images, write_mnist

pytestmark = pytest.mark.workers(1)  # nothing here depends on the number of ranks

X, Y = images(70)
IMAGES, LABELS = idx(X), idx(Y)
ZIPPED = gzip.compress(IMAGES, mtime=0)


def npz(**arrays: ArrayLike) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)  # type: ignore[arg-type]  # its stub takes no mapping
    return file.getvalue()


def mat(compress: bool = False, **arrays: object) -> bytes:
    file = io.BytesIO()
    scipy.io.savemat(file, arrays, do_compression=compress)
    return file.getvalue()


def npy(header: str, values: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    """A .npz file whose array x has this header."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        start = b"\x93NUMPY" + version + struct.pack("<H", len(header)) + header.encode()
        archive.writestr("x.npy", start + values)
    return file.getvalue()


def header(shape: str, dtype: str = "<f4") -> str:
    return f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}}}\n"


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"", r"expected an IDX file of images.*magic number 2051, got b''"),
        (IMAGES[:3], r"magic number 2051, got b'\\x00\\x00\\x08'"),
        (LABELS, r"magic number 2051, got 2049, which means labels"),
        (idx(X, code=13), "magic number 2051, got 3331"),
        (b"<html>not found</html>", "magic number 2051, got"),
        (IMAGES[:9], "cut off within the IDX header"),
        (IMAGES[:-1], r"says \(70, 28, 28\), 54,880 values, and the file holds only 54,879"),
        (IMAGES + b"\0", "54,880 values, and the file holds more"),
        (gzip.compress(IMAGES[:-1], mtime=0), "holds only 54,879"),
        (gzip.compress(IMAGES + b"\0", mtime=0), "holds more"),
        (ZIPPED[:-9], "the gzip stream is cut off"),
        (ZIPPED[:20000], "the gzip stream is cut off"),
        (ZIPPED[:-8] + bytes(4) + ZIPPED[-4:], "the gzip stream is corrupt.*CRC"),
        (ZIPPED[:3000] + b"\xff" * 40 + ZIPPED[3040:], "the gzip stream is corrupt"),
        (b"\x1f\x8b" + IMAGES, "the gzip stream is corrupt"),
        (struct.pack(">4B3I", 0, 0, 8, 3, 0, 28, 28), r"\(0, 28, 28\), no values"),
        (struct.pack(">4B3I", 0, 0, 8, 3, 2**32 - 1, 2**16, 2**16), "expected at most 268,435,456"),
        (
            gzip.compress(struct.pack(">4B3I", 0, 0, 8, 3, 2**19, 28, 28), mtime=0),
            "expected at most",
        ),
        (struct.pack(">4B3I", 0, 0, 8, 3, 300_000, 28, 28), "holds only 0"),
        (idx(X[:69]), "69 rows in x and 70 labels; expected one label per row"),
        (idx(X[:, :27]), r"\(756,\) columns; expected images of 28x28"),
    ],
)
def test_bad_images(tmp_path: Path, contents: bytes, message: str) -> None:
    write_mnist(tmp_path, "t10k", 70)
    file = tmp_path / "t10k-images-idx3-ubyte"
    file.write_bytes(contents)
    with pytest.raises(ValueError, match=message) as caught:
        load("mnist", path=tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert file.name in str(caught.value)


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (IMAGES, "expected an IDX file of labels.*got 2051, which means images"),
        (idx(np.full(70, 10)), "labels from 10 to 10; expected 0 to 9"),
        (LABELS[:-1], "holds only 69"),
    ],
)
def test_bad_labels(tmp_path: Path, contents: bytes, message: str) -> None:
    write_mnist(tmp_path, "train", 70)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(contents)
    with pytest.raises(ValueError, match=message):
        load("mnist", path=tmp_path)


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such file or folder; expected MNIST"):
        load("mnist", path=tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="no MNIST files in this folder; expected train-"):
        load("mnist", path=tmp_path)
    with pytest.raises(FileNotFoundError, match=r"a\.npz: no such file; expected one with arrays"):
        load("file", path=tmp_path / "a.npz")
    write_mnist(tmp_path, "train", 70)
    (tmp_path / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(FileNotFoundError, match="train labels are missing; expected train-labels"):
        load("mnist", path=tmp_path)
    for name in ("mine.bin", "train-mine.bin"):
        (tmp_path / name).write_bytes(IMAGES)
        with pytest.raises(FileNotFoundError, match=rf"{name}: not a name of an MNIST file"):
            load("mnist", path=tmp_path / name)
    with pytest.raises(ValueError, match=r"mine\.bin: expected a name that ends in \.npz or"):
        load("file", path=tmp_path / "mine.bin")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.npz")
    with pytest.raises(FileNotFoundError, match="no such file"):
        load("file", path=tmp_path / "a.npz")


def test_a_file_of_unreasonable_length_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "a.npz").open("wb") as file:
        file.truncate(1 << 40)  # takes no room on the disk
    with pytest.raises(ValueError, match="1,099,511,627,776 bytes; expected at most"):
        load("file", path=tmp_path / "a.npz")


FLAT = X.reshape(70, 784)
NAN = FLAT.astype(float)
NAN[42, 7] = np.nan
OBJECTS = np.array(["one", "two"] * 35, dtype=object)


MATLAB = mat(x=FLAT, y=Y)
TYPE_CODE = 176  # where the type of the numbers of x stands; scipy crashes on a wrong one


@pytest.mark.parametrize(
    ("suffix", "contents", "message"),
    [
        (".npz", b"", "not a zip file"),
        (".npz", npz(x=FLAT, y=Y)[:-30], "not a zip file"),
        (".npz", mat(x=FLAT, y=Y), "not a zip file"),
        (".npz", npz(y=Y), "no array x or x_train"),
        (".npz", npz(x=FLAT), "no array y or y_train"),
        (".npz", npz(x=FLAT, y=Y, x_test=FLAT), "expected both x_test and y_test, or neither"),
        (".npz", npz(x=FLAT, x_train=FLAT, y=Y), "expected either x or x_train, not both"),
        (".npz", npz(x=OBJECTS, y=Y), "x.npy holds Python objects, which are never read"),
        (".npz", npz(x=FLAT, y=OBJECTS), "y.npy holds Python objects"),
        (".npz", npz(x=FLAT * 1j, y=Y), "x.npy holds complex128; expected real numbers"),
        (".npz", npz(x=FLAT.astype(str), y=Y), "x.npy holds <U.*; expected real numbers"),
        (".npz", npz(x=FLAT, y=Y.astype(str)), "y.npy holds <U"),
        (".npz", npz(x=np.zeros((0, 3)), y=[]), r"its shape is \(0, 3\)"),
        (".npz", npz(x=NAN, y=Y), "x holds nan in row 42, column 7; expected finite"),
        (".npz", npz(x=FLAT, y=Y, x_test=NAN, y_test=Y), "x_test holds nan in row 42"),
        (".npz", npz(x=np.full((70, 2), -np.inf), y=Y), "holds -inf in row 0, column 0"),
        (".npz", npz(x=FLAT * 1e300, y=Y), "values too large"),
        (".npz", npz(x=FLAT, y=Y, x_test=FLAT * 1e60, y_test=Y), "too large for float32"),
        (".npz", npz(x=FLAT, y=Y[:69]), "70 rows in x and 69 labels"),
        (".npz", npz(x=FLAT, y=Y, x_test=FLAT, y_test=Y[1:]), "70 rows in x_test and 69"),
        (".npz", npz(x=FLAT, y=Y, x_test=X[:, 0], y_test=Y), "28 columns in x_test and 784"),
        (".npz", npz(x=np.float64(3), y=Y), r"x is float64 of shape \(\)"),
        (".npz", npz(x=FLAT, y=Y - 1.0), "expected whole numbers from 0, got -1.0 to 8.0"),
        (".npz", npz(x=FLAT, y=Y + 0.5), "expected whole numbers from 0"),
        (".npz", npz(x=FLAT, y=Y * np.nan), "expected whole numbers from 0, got nan"),
        (".npz", npz(x=FLAT, y=Y * 1e30), "expected whole numbers from 0"),
        (".npz", npz(x=FLAT, y=Y + 1), "10 different labels from 1 to 10; expected 0 to 9"),
        (".npz", npz(x=FLAT, y=Y, classes=3), "labels from 0 to 9; expected 0 to 2"),
        (".npz", npz(x=FLAT, y=np.arange(70)), "70 rows cannot be divided.*expected more rows"),
        (".npz", npy(header("(2**40,)")), "a.npz: .*expected a sound .npz file"),
        (".npz", npy(header("(1099511627776,)")), "expected 1 to 268,435,456 values"),
        (".npz", npy(header("(-1, -4)"), bytes(16)), r"its shape is \(-1, -4\)"),
        (".npz", npy(header("(3,)"), bytes(8)), "12 bytes, and 8 follow"),
        (".npz", npy(header("(1,)"), bytes(8)), "4 bytes, and 8 follow"),
        (".npz", npy(header("(1,)", "|O"), bytes(8)), "x.npy holds Python objects"),
        (".npz", npy(header("(1,)"), bytes(4), b"\x09\x00"), r"version \(9, 0\); expected \(1"),
        (".npz", npy("{'descr'"), "expected a sound .npz file"),
        (".mat", b"", "expected a sound .mat file"),
        (".mat", npz(x=FLAT, y=Y), "expected a sound .mat file"),
        (".mat", mat(x=FLAT, y=Y)[:-5000], "cut off .* bytes before the end of an array"),
        (".mat", mat(True, x=FLAT, y=Y)[:-500], "cut off"),
        (".mat", b"MATLAB 7.3 MAT-file" + bytes(109), "save with -v7 in MATLAB, or as .npz"),
        (".mat", b"\x89HDF\r\n\x1a\n" + bytes(120), "save with -v7 in MATLAB"),
        (".mat", MATLAB[:TYPE_CODE] + b"\xc8" + MATLAB[TYPE_CODE + 1 :], r"\(70, 784\), and 54,8"),
        (".mat", mat(x=FLAT), "no array y or y_train"),
        (".mat", mat(x=OBJECTS, y=Y), "x is a MATLAB cell; expected an array of numbers"),
        (".mat", mat(x={"a": 1}, y=Y), "x is a MATLAB struct"),
        (".mat", mat(x="text", y=Y), "x is a MATLAB char"),
        (".mat", mat(x=scipy.sparse.csc_matrix(np.eye(70)), y=Y), "x is a MATLAB sparse"),
        (".mat", mat(x=FLAT * 1j, y=Y), "x is complex; expected real numbers"),
        (".mat", mat(x=NAN, y=Y), "x holds nan in row 42, column 7"),
        (".mat", mat(x=FLAT, y=Y[:69]), "70 rows in x and 69 labels"),
    ],
)
def test_bad_arrays(tmp_path: Path, suffix: str, contents: bytes, message: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(contents)
    with pytest.raises(ValueError, match=message) as caught:
        load("file", path=path)
    assert str(path) in str(caught.value)


def test_what_expands_beyond_the_limit_is_not_expanded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nn.data.formats.mat.MOST_EXPANDED", 1 << 20)
    bomb = zlib.compress(struct.pack("<II", 14, 1 << 26) + bytes(1 << 26))
    element = struct.pack("<II", 15, len(bomb)) + bomb
    (tmp_path / "a.mat").write_bytes(mat(x=FLAT)[:128] + element)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"a\.mat: an array expands to more than"):
            load("file", path=tmp_path / "a.mat")
        assert tracemalloc.get_traced_memory()[1] < 1 << 23
    finally:
        tracemalloc.stop()


def test_mnist_has_784_columns_and_labels_below_10(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(npz(x=X[:, 0], y=Y))
    with pytest.raises(ValueError, match=r'784 columns \(other sets of arrays: load\("file"'):
        load("mnist", path=tmp_path / "a.npz")
    (tmp_path / "b.npz").write_bytes(npz(x=FLAT, y=np.arange(70) % 11))
    with pytest.raises(ValueError, match="labels from 0 to 10; expected 0 to 9"):
        load("mnist", path=tmp_path / "b.npz")


def test_no_python_object_is_ever_made(tmp_path: Path) -> None:
    class Tripwire:
        def __reduce__(self) -> tuple[Callable, tuple]:
            return (tmp_path / "tripped").touch, ()

    np.savez(tmp_path / "a.npz", x=np.array([Tripwire()] * 70), y=Y)
    with pytest.raises(ValueError, match="Python objects"):
        load("file", path=tmp_path / "a.npz")
    assert not (tmp_path / "tripped").exists()
