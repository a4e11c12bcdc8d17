"""Images of glyphs (digits, letters), distorted as by hand.

Each image is one glyph under a random affine map and a random elastic displacement field
(P. Simard, D. Steinkraus and J. Platt, Best Practices for Convolutional Neural Networks Applied to
Visual Document Analysis, ICDAR 2003, section 2).
"""

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from nn.data import raw

SIDE = 28
"""Width and height of a generated image, pixels."""

GLYPH_SIDE = 32
"""Width and height of a glyph before its distortion, dots."""

_GLYPH = 21.0  # height of an undistorted glyph within the 28 pixels; MNIST has 20
# Largest distortions, drawn uniformly in both directions:
_ROTATION = 0.17  # radians (10 degrees)
_SCALE = 0.1  # logarithm of the size, along each axis
_SHEAR = 0.1  # horizontal offset per unit of height
_SHIFT = 0.75  # pixels
# The displacement field:
_ELASTIC = 10.0  # Simard's alpha, its strength in pixels
_SMOOTH = 4.0  # Simard's sigma, its width in pixels


def distort(glyphs: NDArray[np.float32], rng: Generator) -> NDArray[np.uint8]:
    """Distort each glyph once, at random: (n, 32, 32) ink -> (n, 28, 28) grey levels 0..255."""
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
    dots = np.einsum("ijn,njhw->inhw", to_dots * (GLYPH_SIDE / _GLYPH), pixels, optimize=True)
    dots += (GLYPH_SIDE - 1) / 2
    which = np.broadcast_to(np.arange(n).reshape(n, 1, 1), (n, SIDE, SIDE))
    image = ndimage.map_coordinates(glyphs, [which, *dots], order=1, mode="constant")
    return np.rint(255 * image).astype(np.uint8)


def draw(ink: NDArray[np.float32], which: NDArray, seed: tuple[int, int]) -> NDArray[np.uint8]:
    """Draw a distortion of each of the glyphs `which`.

    Args:
        ink: (glyphs, 32, 32), from 0 to 1.
        which: (n,) numbers of glyphs.
        seed: seed of the random numbers.

    Returns:
        (n, 28, 28) grey levels 0..255.
    """
    return raw.draw(lambda chunk, rng: distort(ink[chunk], rng), which, seed)
