"""Readers of data sets, and small files for each of them, to be damaged."""

import gzip
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io

from nn.data import Dataset, cache
from nn.data.load import READ
from nn.data.prepare import prepare
from nn.data.sets import cifar10
from tests.nn.data.samples import idx, images
from tests.nn.data.small import arrays
from tests.support.fuzz import Target, equal

Arrays = dict[str, np.ndarray | int]

ROWS, TESTS = 20, 10
X, Y = images(ROWS)
X_TEST, Y_TEST = images(TESTS, seed=1)
Y, Y_TEST = Y % 2, Y_TEST % 2
SMALL = {
    "x": X[:, :4, 0],
    "y": Y.astype(np.int64),
    "x_test": X_TEST[:, :4, 0],
    "y_test": Y_TEST.astype(np.int64),
}


def prepared(name: str, path: Callable[[Path], Path]) -> Callable[[Path], Arrays]:
    """A function that reads a set as `load` does, without its cache and normalisation."""

    def read(folder: Path) -> Arrays:
        source = READ[name]
        raw = source.read(source.find(path(folder)))
        found = {n: np.concatenate([*c]) for n, _, c in prepare(raw, None, 0, None, False)}
        return {**found, "classes": raw.classes}

    return read


def by_shape(found: Arrays, sound: Arrays, folder: Path) -> bool:
    """For formats whose numbers have no checksum."""
    return found.keys() == sound.keys() and all(
        np.shape(found[name]) == np.shape(value) for name, value in sound.items()
    )


def plain_arrays(found: Arrays, sound: Arrays, folder: Path) -> bool:
    """For MATLAB files without a checksum: one that ends before x_test is another sound file."""
    contents = b"".join(file.read_bytes() for file in folder.iterdir())
    if b"_test" not in contents:
        return np.size(found["y"]) + np.size(found["y_test"]) == ROWS
    return by_shape(found, sound, folder)


def one_file(
    name: str, contents: Callable[[Path], object], same: Callable[..., bool] = equal
) -> Target:
    """A set of arrays x, y, x_test and y_test in one file, written by `contents`."""

    def write(folder: Path) -> list[Path]:
        contents(folder / name)
        return [folder / name]

    return Target(write, prepared("file", lambda folder: folder / name), same=same)


def saved(path: Path) -> None:
    """Save a set as the project does."""
    Dataset("small", **SMALL, classes=2).save(path)  # type: ignore[arg-type]


def matlab(**options: Any) -> Callable[[Path], object]:
    return lambda path: scipy.io.savemat(path, SMALL, **options)


def mnist(pack: Callable[[bytes], bytes], end: str) -> Callable[[Path], list[Path]]:
    def write(folder: Path) -> list[Path]:
        for part, x, y in (("train", X, Y), ("t10k", X_TEST, Y_TEST)):
            (folder / f"{part}-images-idx3-ubyte{end}").write_bytes(pack(idx(x)))
            (folder / f"{part}-labels-idx1-ubyte{end}").write_bytes(pack(idx(y)))
        return sorted(folder.iterdir())

    return write


def plain_mnist(found: Arrays, sound: Arrays, folder: Path) -> bool:
    """Compare with the bytes after the headers."""
    now = {
        file.name: np.frombuffer(file.read_bytes()[16 if "images" in file.name else 8 :], np.uint8)
        for file in folder.iterdir()
    }
    names = {
        "x": "train-images-idx3-ubyte",
        "y": "train-labels-idx1-ubyte",
        "x_test": "t10k-images-idx3-ubyte",
        "y_test": "t10k-labels-idx1-ubyte",
    }
    return by_shape(found, sound, folder) and all(
        np.array_equal(np.ravel(found[name]), now[file]) for name, file in names.items()
    )


def write_cifar10(folder: Path) -> list[Path]:
    cifar10.ROWS = ROWS
    rng = np.random.default_rng(0)
    for name in (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"):
        rows = rng.integers(0, 256, (ROWS, 3073), dtype=np.uint8)
        rows[:, 0] %= 10
        (folder / name).write_bytes(rows.tobytes())
    return sorted(folder.iterdir())


def same_cifar10(found: Arrays, sound: Arrays, folder: Path) -> bool:
    rows = np.concatenate([np.fromfile(file, np.uint8) for file in sorted(folder.iterdir())])
    rows = rows.reshape(-1, 3073)
    x, y = rows[:, 1:], rows[:, 0]
    now = {"x": x[:-ROWS], "y": y[:-ROWS], "x_test": x[-ROWS:], "y_test": y[-ROWS:]}
    return by_shape(found, sound, folder) and all(
        np.array_equal(found[name], value) for name, value in now.items()
    )


def write_letters(folder: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    rows = [
        [i + 1, chr(97 + i % 26), i + 2, i // 5, i % 5, i % 10, *rng.integers(0, 2, 128)]
        for i in range(60)
    ]
    (folder / "letter.data").write_text("".join("\t".join(map(str, r)) + "\t\n" for r in rows))
    return [folder / "letter.data"]


def same_letters(found: Arrays, sound: Arrays, folder: Path) -> bool:
    lines = (folder / "letter.data").read_text().rstrip("\n").split("\n")
    rows = [line.split("\t") for line in lines]
    for name, test in (("", False), ("_test", True)):
        chosen = [row for row in rows if (row[5] == "0") == test]
        x = np.array([[int(bit) for bit in row[6:134]] for row in chosen])
        y = [ord(row[1]) - 97 for row in chosen]
        if not (np.array_equal(found[f"x{name}"], x) and np.array_equal(found[f"y{name}"], y)):
            return False
    return True


def fetch(folder: Path) -> dict:
    """The small set of the cache in this folder."""
    os.environ["LOCKSTEP_CACHE"] = str(folder)
    return cache.fetch("small", {"a": 1}, lambda: ({"classes": 6}, arrays()))


def write_cache(folder: Path) -> list[Path]:
    fetch(folder)
    (made,) = (file for file in folder.iterdir() if file.is_dir())
    return sorted(made.iterdir())


TARGETS = {
    "npz": one_file("a.npz", saved),
    "numpy's npz": one_file("a.npz", lambda path: np.savez_compressed(path, **SMALL)),  # type: ignore[arg-type]
    "mat": one_file("a.mat", saved),
    "plain mat": one_file("a.mat", matlab(), same=plain_arrays),
    "mat 4": one_file("a.mat", matlab(format="4"), same=plain_arrays),
    "idx": Target(mnist(bytes, ""), prepared("mnist", lambda folder: folder), same=plain_mnist),
    "idx.gz": Target(mnist(gzip.compress, ".gz"), prepared("mnist", lambda folder: folder)),
    "cifar10": Target(write_cifar10, prepared("cifar10", lambda f: f), same=same_cifar10),
    "letters": Target(
        write_letters, prepared("letters", lambda f: f / "letter.data"), same=same_letters
    ),
    "cache": Target(write_cache, fetch, errors=()),
}
