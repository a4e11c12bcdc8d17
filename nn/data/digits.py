"""Handwritten digits at MNIST's size without a download: real ones, distorted as a hand might.

The originals are the 1,797 digits of 8x8 pixels that come with scikit-learn (E. Alpaydin and
C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998). Each generated image is one of
them, enlarged, under a random affine map and a random elastic displacement field (P. Simard,
D. Steinkraus and J. Platt, Best Practices for Convolutional Neural Networks Applied to Visual
Document Analysis, ICDAR 2003, section 2).
"""

from functools import cache

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from nn.data.raw import ONE_IN, Raw, stratified

SMALLEST, LARGEST, USUAL = 1_000, 70_000, 10_000
SIDE = 28
"""Width and height of a generated image, pixels."""

_ENLARGED = 32  # the originals' bitmaps had 32x32 dots, counted in blocks of 4x4
_GLYPH = 21.0  # height of an undistorted digit within the 28 pixels; MNIST has 20
_ROTATION = 0.17  # largest distortions, drawn uniformly: radians either way (10 degrees),
_SCALE = 0.1  # relative size along either axis,
_SHEAR = 0.1  # horizontal offset per unit of height,
_SHIFT = 0.75  # pixels,
_ELASTIC = 10.0  # Simard's alpha, the strength of the displacement field in pixels,
_SMOOTH = 4.0  # and his sigma, its width in pixels.
_CHUNK = 1_000  # rows made at once: bounds the memory to some 30 MB whatever the size


@cache
def originals() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The real digits: (1797, 32, 32) ink from 0 to 1, and (1797,) labels."""
    from scipy import ndimage
    from sklearn.datasets import load_digits

    digits = load_digits()
    ink = digits.images.astype(np.float32) / 16
    zoom = _ENLARGED / ink.shape[1]
    ink = ndimage.zoom(ink, (1, zoom, zoom), order=3, mode="grid-constant", grid_mode=True)
    # The cubic enlargement blurs the pen's edge over some 4 dots: a steeper one looks like ink.
    return np.clip(1.6 * (ink - 0.5) + 0.5, 0, 1), digits.target.astype(np.int64)


def split(seed: int) -> tuple[NDArray, NDArray]:
    """Numbers of the originals behind the training and behind the test images: disjoint."""
    return stratified(originals()[1], seed, "digits")


def distort(glyphs: NDArray[np.float32], rng: Generator) -> NDArray[np.uint8]:
    """One random distortion of each glyph: (n, 32, 32) ink -> (n, 28, 28) grey levels 0..255."""
    from scipy import ndimage

    n = len(glyphs)
    turn = rng.uniform(-_ROTATION, _ROTATION, n)
    shear = rng.uniform(-_SHEAR, _SHEAR, n)
    scale = np.exp(rng.uniform(-_SCALE, _SCALE, (2, n)))
    shift = rng.uniform(-_SHIFT, _SHIFT, (n, 2, 1, 1))
    field = rng.random((n, 2, SIDE, SIDE), dtype=np.float32) * 2 - 1
    field = _ELASTIC * ndimage.gaussian_filter(field, (0, 0, _SMOOTH, _SMOOTH), truncate=3)

    # Where does each output pixel come from? Shift and displace (pixels), then the affine map
    # from pixels to dots, both about the centre.
    pixels = np.indices((SIDE, SIDE)) - (SIDE - 1) / 2 + shift + field
    cos, sin = np.cos(turn), np.sin(turn)
    to_dots = np.array([[cos, sin], [shear * cos - sin, shear * sin + cos]]) / scale[:, None]
    dots = np.einsum("ijn,njhw->inhw", to_dots * (_ENLARGED / _GLYPH), pixels, optimize=True)
    dots += (_ENLARGED - 1) / 2
    which = np.broadcast_to(np.arange(n).reshape(n, 1, 1), (n, SIDE, SIDE))
    image = ndimage.map_coordinates(glyphs, [which, *dots], order=1, mode="constant")
    return np.rint(255 * image).astype(np.uint8)


def make(size: int, seed: int) -> Raw:
    """`size` training images and a sixth as many test images, of uint8.

    Each original serves nearly equally often. Training and test images come from different
    originals, so that no test image is a distortion of a training one.

    Raises:
        ValueError: size is not from 1,000 to 70,000.
    """
    if not SMALLEST <= size <= LARGEST:
        raise ValueError(f"size={size}: expected from {SMALLEST:,} to {LARGEST:,} digits")
    train, test = split(seed)
    train, test = np.resize(train, size), np.resize(test, size // (ONE_IN - 1))
    labels = originals()[1]
    return Raw(
        x=_draw(train, (seed, 0)),
        y=labels[train],
        x_test=_draw(test, (seed, 1)),
        y_test=labels[test],
        classes=10,
        origin="digits",
        images=True,
    )


def _draw(numbers: NDArray, seed: tuple[int, int]) -> NDArray[np.uint8]:
    """A distortion of each of these originals, (n, 784), each chunk from a seed of its own."""
    ink = originals()[0]
    x = np.empty((len(numbers), SIDE, SIDE), np.uint8)
    for lo in range(0, len(x), _CHUNK):
        chunk = numbers[lo : lo + _CHUNK]
        x[lo : lo + len(chunk)] = distort(ink[chunk], np.random.default_rng((*seed, lo)))
    return x.reshape(len(x), -1)
