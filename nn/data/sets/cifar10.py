"""CIFAR-10: the user's files in the binary version, or painted images of the same shape.

CIFAR-10 (A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009) has 60,000
photographs of 32x32 pixels in 10 classes. A file of its binary version holds 10,000 rows of one
label byte and 3,072 bytes of pixels: the red, the green and the blue plane, each row by row.
"""

import os
from pathlib import Path

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from nn.data.raw import Raw, draw
from nn.regular_file import open_regular

SMALLEST, LARGEST, USUAL = 1_000, 50_000, 10_000
SIDE = 32
"""Width and height of an image, pixels."""

ROWS = 10_000
"""Number of images in each file."""

_TRAIN, _TEST = [f"data_batch_{i}" for i in range(1, 6)], "test_batch"
_PIXELS, _CLASSES = 3 * SIDE * SIDE, 10
_HUE = 0.15  # standard deviation of an image's hue, in turns; hues of classes are 0.1 apart
_NOISE = 0.06  # standard deviation of every pixel, as a share of full brightness
_UNPACKED = "cifar-10-batches-bin"  # the folder in the binary version's archive
_BINARY = (
    "expected the folder of the binary version (cifar-10-binary.tar.gz, unpacked) with "
    "data_batch_1.bin to data_batch_5.bin and test_batch.bin"
)


def find(path: Path) -> list[Path]:
    """Find the six files in the folder `path`, or in the folder that the archive unpacks to there.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: `path` is no folder, or holds the pickled version.
    """
    folder = path / _UNPACKED if (path / _UNPACKED).is_dir() else path
    found = [folder / f"{name}.bin" for name in (*_TRAIN, _TEST)]
    missing = [file for file in found if not file.is_file()]
    if not missing:
        return found
    pickled = [folder / _TEST, *(folder / name for name in _TRAIN), folder / "cifar-10-batches-py"]
    named = path.name.startswith("cifar-10-python") or path.name in (_TEST, *_TRAIN)
    if named or any(file.exists() for file in pickled):
        raise ValueError(
            f"{path}: the Python version of CIFAR-10 is pickled, and reading a pickle can run "
            f"any code, so it is never read; {_BINARY}"
        )
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path}: not a folder; {_BINARY}")
    raise FileNotFoundError(f"{missing[0]}: no such file; {_BINARY}")


def read(paths: list[Path]) -> Raw:
    """Read 50,000 training and 10,000 test images from the files that `find` found.

    Raises:
        ValueError: a file has the wrong length, or holds a label above 9.
    """
    rows = np.concatenate([_read(path) for path in paths])
    x, y = rows[:, 1:], rows[:, 0].astype(np.int64)
    n = len(rows) - ROWS
    origin = f"{paths[0].parent}: CIFAR-10"
    return Raw(x[:n], y[:n], x[n:], y[n:], _CLASSES, origin, images=True)


def _read(path: Path) -> NDArray[np.uint8]:
    expected = ROWS * (1 + _PIXELS)
    with open_regular(path) as file:
        found = os.fstat(file.fileno()).st_size
        values = np.frombuffer(file.read(expected), np.uint8)
    if found != expected or values.size != expected:
        raise ValueError(
            f"{path}: {found:,} bytes; expected {expected:,}, {ROWS:,} rows of a label and "
            f"{_PIXELS:,} pixel values; unpack the archive again"
        )
    rows = values.reshape(ROWS, -1)
    if rows[:, 0].max() >= _CLASSES:
        row = int(rows[:, 0].argmax())
        raise ValueError(f"{path}: label {rows[row, 0]} in row {row}; expected 0 to {_CLASSES - 1}")
    return rows


def make(size: int, seed: int) -> Raw:
    """Paint `size` training images and a fifth as many test images, uint8; no photographs.

    Raises:
        ValueError: size is not from 1,000 to 50,000.
    """
    if not SMALLEST <= size <= LARGEST:
        raise ValueError(f"size={size}: expected from {SMALLEST:,} to {LARGEST:,} images")
    y, y_test = np.arange(size) % _CLASSES, np.arange(size // 5) % _CLASSES
    x, x_test = draw(paint, y, (seed, 0)), draw(paint, y_test, (seed, 1))
    return Raw(x, y, x_test, y_test, _CLASSES, "images of CIFAR-10's shape", images=True)


def paint(labels: NDArray[np.int64], rng: Generator) -> NDArray[np.uint8]:
    """Paint one random image for each label: (n,) labels 0..9 -> (n, 3072) levels 0..255.

    An image shows a flower of 2 + label % 5 petals, full (labels 0 to 4) or with a hole (5 to 9),
    of random size, place and rotation, before a cloudy background. Telling the petals apart needs
    features that a convolution learns. The hue, which overlaps between classes, is better than
    chance by itself, as colour is in photographs.
    """
    from scipy import ndimage

    n = len(labels)
    radius = rng.uniform(7, 11, (n, 1, 1))
    place = rng.uniform(-5, 5, (n, 2, 1, 1))
    turn = rng.uniform(0, 2 * np.pi, (n, 1, 1))
    petals, hollow = (2 + labels % 5)[:, None, None], (labels >= 5)[:, None, None]

    down, right = np.moveaxis(np.indices((SIDE, SIDE)) - (SIDE - 1) / 2 - place, 1, 0)
    edge = radius * (1 + 0.35 * np.cos(petals * (np.arctan2(down, right) - turn)))
    distance = np.hypot(down, right)
    flower = np.clip(edge - distance + 0.5, 0, 1)  # a pixel that the edge cuts is covered in part
    flower -= hollow * np.clip(0.5 * edge - distance + 0.5, 0, 1)

    clouds = ndimage.gaussian_filter(rng.normal(size=(n, 3, SIDE, SIDE)), (0, 0, 4, 4))
    background = _colour(rng.random(n)) + 2 * clouds
    foreground = _colour(labels / _CLASSES + rng.normal(0, _HUE, n))
    image = background + flower[:, None] * (foreground - background)
    image += rng.normal(0, _NOISE, image.shape)
    return np.rint(255 * np.clip(image, 0, 1)).astype(np.uint8).reshape(n, -1)


def _colour(hue: NDArray[np.float64]) -> NDArray[np.float64]:
    """Colours of these hues: (n,) in turns -> (n, 3, 1, 1) red, green, blue from 0 to 1."""
    return (0.5 + 0.4 * np.cos(2 * np.pi * (hue[:, None] - np.arange(3) / 3)))[:, :, None, None]
