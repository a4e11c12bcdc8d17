"""Data sets as named arrays in one file: `.npz` (numpy) or `.mat` (MATLAB); never pickled."""

import hashlib
import os
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nn import npz_file
from nn.atomic_write import atomic_write
from nn.data.formats import mat
from nn.data.formats.limits import LARGEST_BYTES, MOST_EXPANDED, check_shape
from nn.data.raw import Raw
from nn.regular_file import open_regular

SUFFIXES = (".npz", ".mat")
_ALIASES = {"x_train": "x", "y_train": "y"}  # as in the mnist.npz that Keras ships
_WANTED = {"x", "y", "x_test", "y_test", "classes", *_ALIASES}


def find(path: Path) -> Path:
    """Return `path` if it names a file that `read` can read.

    Raises:
        ValueError: the name ends in neither .npz nor .mat.
        FileNotFoundError: there is no such file.
    """
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path}: expected a name that ends in {' or '.join(SUFFIXES)}")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected one with arrays x and y")
    return path


def digest(path: Path) -> str:
    """SHA-256 of a file's bytes: a file under another name or with another date is the same data.

    Raises:
        ValueError: the file is too large to be a data set.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > LARGEST_BYTES:
            raise ValueError(f"{path}: {size:,} bytes; expected at most {LARGEST_BYTES:,}")
        return hashlib.file_digest(file, "sha256").hexdigest()


def read(path: Path) -> Raw:
    """Read rows from a `.npz` or `.mat` file: arrays x, y and, if divided, x_test, y_test.

    x is (n, ...) real numbers, flattened to (n, d) in C order; y has n labels 0..classes-1, of
    any shape and any real dtype. `classes` is a number, needed only if some class does not occur.
    x_train and y_train are other names of x and y.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, too large, lacks arrays, holds Python objects, or its
            values make no data set; the message names the file and says what was expected.
    """
    arrays = _read_npz(path) if path.suffix == ".npz" else _read_mat(path)
    for alias, name in _ALIASES.items():
        if alias in arrays and name in arrays:
            raise ValueError(f"{path}: expected either {name} or {alias}, not both")
        if alias not in arrays and name not in arrays:
            raise ValueError(
                f"{path}: no array {name} or {alias}; "
                "expected x, y and, where the set is divided, x_test, y_test"
            )
        if alias in arrays:
            arrays[name] = arrays.pop(alias)
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


def _read_npz(path: Path) -> dict[str, NDArray]:
    return npz_file.read(
        path,
        _WANTED,
        kinds="biuf",
        check=lambda name, header: check_shape(name, header.shape),
        most_expanded=MOST_EXPANDED,
    )


def _read_mat(path: Path) -> dict[str, NDArray]:
    try:
        return mat.read(path, _WANTED)
    except MemoryError:
        raise MemoryError(f"{path}: not enough memory to read its arrays") from None
    except (ValueError, zlib.error) as error:
        raise ValueError(
            f"{path}: {error}; expected a sound .mat file with arrays of numbers"
        ) from None


def write(path: Path, arrays: Mapping[str, NDArray]) -> None:
    """Write named arrays to a `.npz` or `.mat` file, which appears whole or not at all.

    Raises:
        ValueError: the name ends in neither .npz nor .mat.
        OSError: the folder is missing, not writable, or full; an older file is left as it was.
    """
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path}: expected a name that ends in {' or '.join(SUFFIXES)}")
    with atomic_write(path) as file:
        (npz_file if path.suffix == ".npz" else mat).write(file, arrays)


def _rows(x: NDArray) -> NDArray:
    """x as (n, d); a single number stays as it is, and is refused when rows are checked."""
    return x.reshape(len(x), -1) if x.ndim else x


def _labels(y: NDArray, origin: str) -> NDArray[np.int64]:
    """Labels as an int64 vector of whole numbers from 0; MATLAB stores them in any real dtype."""
    if y.dtype.kind not in "biuf" or not y.size:
        raise ValueError(f"{origin}: expected whole numbers, got {y.dtype} of shape {y.shape}")
    with np.errstate(invalid="ignore"):
        whole = y.ravel().astype(np.int64)
    if (whole != y.ravel()).any() or whole.min() < 0:
        raise ValueError(f"{origin}: expected whole numbers from 0, got {y.min()} to {y.max()}")
    return whole


def _count_classes(y: NDArray[np.int64], path: Path) -> int:
    """Number of classes if the labels are 0, 1, ... without a gap; else a ValueError."""
    present = np.unique(y)
    if present[-1] != len(present) - 1:  # MATLAB users count from 1, or write 10 for 0
        raise ValueError(
            f"{path}: {len(present)} different labels from {present[0]} to {present[-1]}; expected "
            f"0 to {len(present) - 1}, or an array classes with the number of classes"
        )
    return len(present)
