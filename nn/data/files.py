"""Sets of arrays in one file: `.npz` (numpy) and `.mat` (MATLAB, by scipy.io). Never pickle."""

import hashlib
import math
import os
import tempfile
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Literal

import numpy as np
from numpy.typing import NDArray

from nn.data.limits import LARGEST_BYTES, LARGEST_VALUES
from nn.data.raw import Raw

SUFFIXES = (".npz", ".mat")
NAMES = {
    "x": ("x", "x_train"),
    "y": ("y", "y_train"),
    "x_test": ("x_test",),
    "y_test": ("y_test",),
    "classes": ("classes",),
}
"""What an array may be called. The second names are those of the mnist.npz that Keras ships."""

_MAT_CLASSES = {"double", "single", "logical"} | {
    f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)
}
_COMPRESSED, _PIECE = 15, 1 << 20  # MAT 5: the type of a compressed element


def find(path: Path) -> Path:
    """`path`, if there is such a file and its name says that `read` can read it.

    Raises:
        ValueError: another suffix.
        FileNotFoundError: there is no such file.
    """
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path}: expected a name that ends in {' or '.join(SUFFIXES)}")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected one with arrays x and y")
    return path


def digest(path: Path) -> str:
    """SHA-256 of a file's bytes: the same file under another name or date is the same data.

    Raises:
        ValueError: the file is too large to be a data set.
    """
    size = path.stat().st_size
    if size > LARGEST_BYTES:
        raise ValueError(f"{path}: {size:,} bytes; expected at most {LARGEST_BYTES:,}")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read(path: Path) -> Raw:
    """Rows from a `.npz` or `.mat` file with the arrays x, y and, if it is divided, x_test, y_test.

    x is (n, ...) real numbers, flattened to (n, d) in C order; y has n labels 0..classes-1, of
    any shape and any real dtype. `classes` is a number, needed only where not every class
    occurs. x_train and y_train are understood as x and y.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, too large, lacks arrays, holds Python objects, or its
            values make no data set; the message names it and says what was expected.
    """
    try:
        arrays = _read_npz(path) if path.suffix == ".npz" else _read_mat(path)
    except MemoryError:
        raise
    except Exception as error:  # the readers of zip and MATLAB raise nearly anything on damage
        raise ValueError(
            f"{path}: {error}; expected a sound {path.suffix} file with arrays of numbers"
        ) from None
    for name in ("x", "y"):
        if name not in arrays:
            raise ValueError(
                f"{path}: no array {' or '.join(NAMES[name])}; "
                "expected x, y and, where the set is divided, x_test, y_test"
            )
    if ("x_test" in arrays) != ("y_test" in arrays):
        raise ValueError(f"{path}: expected both x_test and y_test, or neither")
    labels = {name: _labels(arrays[name], f"{path}: {name}") for name in arrays if name[0] == "y"}
    if "classes" in arrays:
        classes = int(_labels(arrays["classes"], f"{path}: classes").max())
    else:
        classes = _count_classes(np.concatenate([*labels.values()]), path)
    return Raw(
        x=_rows(arrays["x"]),
        y=labels["y"],
        x_test=_rows(arrays["x_test"]) if "x_test" in arrays else None,
        y_test=labels.get("y_test"),
        classes=classes,
        origin=str(path),
        images=arrays["x"].dtype == np.uint8,
    )


def write(path: Path, arrays: Mapping[str, NDArray]) -> None:
    """Writes named arrays to a `.npz` or `.mat` file: the whole file appears at once, or none.

    Raises:
        ValueError: another suffix.
    """
    from scipy import io as matlab

    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path}: expected a name that ends in {' or '.join(SUFFIXES)}")
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as folder:
        temporary = Path(folder, path.name)
        with temporary.open("wb") as file:
            if path.suffix == ".npz":
                np.savez(file, allow_pickle=False, **arrays)
            else:
                matlab.savemat(file, dict(arrays), oned_as="column")
            file.flush()
            os.fsync(file.fileno())  # before the rename: else a power failure leaves a cut file
        temporary.replace(path)


def _wanted(found: str, already: Mapping[str, NDArray]) -> str | None:
    """What an array of the file is to us, None if nothing."""
    for name, names in NAMES.items():
        if found in names:
            if name in already:
                raise ValueError(f"it holds {found} twice; expected one of {', '.join(names)}")
            return name
    return None


def _check_size(name: str, shape: tuple[int, ...]) -> None:
    if min(shape, default=1) < 1 or math.prod(shape) > LARGEST_VALUES:
        raise ValueError(
            f"{name} says that its shape is {shape}; expected 1 to {LARGEST_VALUES:,} values"
        )


def _read_npz(path: Path) -> dict[str, NDArray]:
    arrays: dict[str, NDArray] = {}
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if name := _wanted(member.filename.removesuffix(".npy"), arrays):
                with archive.open(member) as stream:
                    arrays[name] = _read_npy(stream, member)
    return arrays


def _read_npy(stream: IO[bytes], member: zipfile.ZipInfo) -> NDArray:
    """One array. Nothing is read before the header agrees with the length of the member."""
    form = np.lib.format
    read_header = {(1, 0): form.read_array_header_1_0, (2, 0): form.read_array_header_2_0}
    version = form.read_magic(stream)
    if version not in read_header:
        raise ValueError(f"{member.filename} is of .npy version {version}; expected 1 or 2")
    shape, fortran, dtype = read_header[version](stream)
    if dtype.hasobject:
        raise ValueError(f"{member.filename} holds Python objects, which are never read")
    if dtype.kind not in "biuf":
        raise ValueError(f"{member.filename} holds {dtype}; expected real numbers")
    _check_size(member.filename, shape)
    promised, held = math.prod(shape) * dtype.itemsize, member.file_size - stream.tell()
    if promised != held:
        raise ValueError(
            f"{member.filename} says {shape} {dtype}, {promised:,} bytes, and {held:,} follow"
        )
    values = np.frombuffer(stream.read(promised), dtype)
    return values.reshape(shape, order="F" if fortran else "C")


def _read_mat(path: Path) -> dict[str, NDArray]:
    from scipy import io as matlab

    with path.open("rb") as file:
        start = file.read(128)
    if start[:4] == b"\x89HDF" or start.startswith(b"MATLAB 7.3"):
        raise ValueError("MATLAB 7.3 (HDF5) is not read; save with -v7 in MATLAB, or as .npz")
    _check_elements(path)
    arrays: dict[str, NDArray] = {}
    for found, shape, kind in matlab.whosmat(path):
        if name := _wanted(found, arrays):
            if kind not in _MAT_CLASSES:
                raise ValueError(f"{found} is a MATLAB {kind}; expected an array of numbers")
            _check_size(found, shape)
            arrays[name] = matlab.loadmat(path, variable_names=[found])[found]
    return arrays


def _check_elements(path: Path) -> None:
    """Walks the elements of a MAT 5 file: all there, and none of them expands beyond the limit.

    scipy believes the sizes within a compressed element, and reads on past a cut.
    """
    with path.open("rb") as file:
        header = file.read(128)
        if header[124:128] not in (b"\x00\x01IM", b"\x01\x00MI"):
            return  # version 4: no compression, and scipy checks the lengths
        order: Literal["little", "big"] = "little" if header[126:] == b"IM" else "big"
        while tag := file.read(8):
            kind, left = (int.from_bytes(tag[i : i + 4], order) for i in (0, 4))
            inflate, expanded = zlib.decompressobj(), 0
            while left:
                piece = file.read(min(_PIECE, left))
                if not piece:
                    raise ValueError(f"cut off {left:,} bytes before the end of an array")
                left -= len(piece)
                while kind == _COMPRESSED and piece:
                    expanded += len(inflate.decompress(piece, _PIECE))
                    piece = inflate.unconsumed_tail
                    if expanded > 8 * LARGEST_VALUES + _PIECE:
                        raise ValueError(f"an array expands to more than {expanded:,} bytes")


def _rows(x: NDArray) -> NDArray:
    return x.reshape(len(x), -1) if x.ndim else x


def _labels(y: NDArray, origin: str) -> NDArray[np.int64]:
    """Whole numbers from 0, as an int64 vector, whatever real dtype MATLAB gave them."""
    if y.dtype.kind not in "biuf" or not y.size:
        raise ValueError(f"{origin}: expected whole numbers, got {y.dtype} of shape {y.shape}")
    with np.errstate(invalid="ignore"):
        whole = y.ravel().astype(np.int64)
    if (whole != y.ravel()).any() or whole.min() < 0:
        raise ValueError(f"{origin}: expected whole numbers from 0, got {y.min()} to {y.max()}")
    return whole


def _count_classes(y: NDArray[np.int64], path: Path) -> int:
    present = np.unique(y)
    if present[-1] != len(present) - 1:  # MATLAB's habit of counting from 1, or of 10 for 0
        raise ValueError(
            f"{path}: {len(present)} different labels from {present[0]} to {present[-1]}; expected "
            f"0 to {len(present) - 1}, or an array classes with the number of classes"
        )
    return len(present)
