"""Small data sets and files of users, written without the code under test."""

import gzip
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nn.data import Dataset

MNIST_TEST = Path(__file__).parents[4] / "shared/data/mnist-test"
"""The 10,000 official test images, if the checkout has them beside it."""


def numbered(rows: int) -> Dataset:
    """A set in which each row holds its own number."""
    x = np.arange(rows, dtype=np.float32)[:, None]
    return Dataset("numbered", x, np.arange(rows), x[:1], np.arange(1), classes=rows)


def idx(values: NDArray, code: int = 8) -> bytes:
    """An IDX file of unsigned bytes."""
    sizes = struct.pack(f">{values.ndim}I", *values.shape)
    return bytes([0, 0, code, values.ndim]) + sizes + values.astype(np.uint8).tobytes()


def images(rows: int, seed: int = 0) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Noise of 28x28 pixels, and labels in which each of 10 classes occurs."""
    noise = np.random.default_rng(seed).integers(0, 256, (rows, 28, 28), dtype=np.uint8)
    return noise, np.arange(rows, dtype=np.uint8) % 10


def write_mnist(folder: Path, part: str, rows: int, zipped: bool = False, mark: str = "-") -> None:
    """Write one part of MNIST under its usual names."""
    x, y = images(rows, seed=len(part))
    pack, end = (gzip.compress, ".gz") if zipped else (bytes, "")
    (folder / f"{part}-images{mark}idx3-ubyte{end}").write_bytes(pack(idx(x)))
    (folder / f"{part}-labels{mark}idx1-ubyte{end}").write_bytes(pack(idx(y)))


def accuracy_of_class_means(dataset: Dataset) -> float:
    """Test accuracy by the nearest class mean, which is low if labels do not fit the rows."""
    means = [dataset.x[dataset.y == label].mean(axis=0) for label in range(dataset.classes)]
    distances = ((dataset.x_test[:, None] - np.stack(means)) ** 2).sum(axis=2)
    return float((distances.argmin(axis=1) == dataset.y_test).mean())
