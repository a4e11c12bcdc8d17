"""Handwritten digits of MNIST's size without a download: real digits, distorted as by hand.

The originals are the 1,797 digits of 8x8 pixels that come with scikit-learn (E. Alpaydin and
C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998). Each image is an original,
enlarged, under a random distortion of its own.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from nn.data.distortions import GLYPH_SIDE, draw
from nn.data.raw import ONE_IN, Raw, stratified

SMALLEST, LARGEST, USUAL = 1_000, 70_000, 10_000


@cache
def originals() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The real digits: (1797, 32, 32) ink from 0 to 1, and (1797,) labels."""
    from scipy import ndimage
    from sklearn.datasets import load_digits

    digits = load_digits()
    ink = digits.images.astype(np.float32) / 16
    zoom = GLYPH_SIDE / ink.shape[1]  # the bitmaps had 32x32 dots, counted in blocks of 4x4
    ink = ndimage.zoom(ink, (1, zoom, zoom), order=3, mode="grid-constant", grid_mode=True)
    # The cubic enlargement blurs the pen's edge over some 4 dots; a steeper edge looks like ink.
    return np.clip(1.6 * (ink - 0.5) + 0.5, 0, 1), digits.target.astype(np.int64)


def split(seed: int) -> tuple[NDArray, NDArray]:
    """Numbers of the originals of the training images, and of the test images; disjoint."""
    return stratified(originals()[1], seed, "digits")


def make(size: int, seed: int) -> Raw:
    """Make `size` training images and a sixth as many test images, uint8.

    All originals are used nearly equally often. Training and test images come from different
    originals, so no test image is a distortion of an original that was trained on.

    Raises:
        ValueError: size is not from 1,000 to 70,000.
    """
    if not SMALLEST <= size <= LARGEST:
        raise ValueError(f"size={size}: expected from {SMALLEST:,} to {LARGEST:,} digits")
    train, test = split(seed)
    train, test = np.resize(train, size), np.resize(test, size // (ONE_IN - 1))
    ink, labels = originals()
    return Raw(
        x=draw(ink, train, (seed, 0)).reshape(size, -1),
        y=labels[train],
        x_test=draw(ink, test, (seed, 1)).reshape(len(test), -1),
        y_test=labels[test],
        classes=10,
        origin="digits",
        images=True,
    )
