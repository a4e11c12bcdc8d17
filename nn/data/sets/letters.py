"""Lower-case letters in 16x8 bits, 26 classes: the user's handwritten letters, or printed ones.

The handwritten letters were collected by R. Kassel (MIT Spoken Language Systems Group), rasterised
and normalised by B. Taskar, C. Guestrin and D. Koller (Max-Margin Markov Networks, NIPS 2003).
There are 52,152 letters of 6,877 words, each a line of tab-separated columns
(ai.stanford.edu/~btaskar/ocr):

    id        number of the letter, from 1
    letter    a to z
    next_id   id of the next letter in the word, -1 at its end
    word_id   number of the word
    position  place of the letter in the word; words begin at 2, because capitals were left out
    fold      fold of cross-validation, 0 to 9; a word lies within one fold
    p_i_j     128 columns, 0 or 1: the pixel in row i of 16, column j of 8, row by row
"""

from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nn.data.distortions import GLYPH_SIDE, draw
from nn.data.raw import ONE_IN, Raw
from nn.regular_file import open_regular

SMALLEST, LARGEST, USUAL = 1_000, 70_000, 10_000
HEIGHT, WIDTH = 16, 8
"""Height and width of an image, pixels."""

LETTERS = [*"abcdefghijklmnopqrstuvwxyz"]
_BEFORE, _PIXELS = 6, HEIGHT * WIDTH  # number of columns before the pixels; of pixel columns
_FOLDS = [str(fold) for fold in range(10)]
_TEST = 0  # the fold for testing
_LONGEST = 1 << 12  # bytes of a line; Kassel's have up to 290


def find(path: Path) -> list[Path]:
    """Find the file `path`, or letter.data in the folder `path`.

    Raises:
        FileNotFoundError: there is no such file.
    """
    file = path / "letter.data" if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file; expected Kassel's letter.data")
    return [file]


def read(paths: list[Path]) -> Raw:
    """Read the letters of the file that `find` found: fold 0 for testing, others for training.

    So no word has letters on both sides. If fold 0 is alone or missing, rows are not divided.

    Raises:
        ValueError: the file is damaged or holds something else; the message says where.
    """
    (path,) = paths
    bits, labels, folds = bytearray(), [], []
    with open_regular(path) as file:
        for number, line in enumerate(iter(lambda: file.readline(_LONGEST), b""), 1):
            try:
                columns = line.decode("ascii").rstrip("\t\r\n").split("\t")
                if len(columns) != _BEFORE + _PIXELS:
                    raise ValueError(f"{len(columns)} columns")
                if not {"0", "1"}.issuperset(columns[_BEFORE:]):
                    raise ValueError("pixels that are not 0 or 1")
                labels.append(LETTERS.index(columns[1]))
                folds.append(_FOLDS.index(columns[5]))
            except ValueError as error:
                raise ValueError(
                    f"{path}: line {number}: {error}; expected a letter of Kassel's letter.data, "
                    f"{_BEFORE + _PIXELS} tab-separated columns (unpack letter.data.gz first)"
                ) from None
            bits += "".join(columns[_BEFORE:]).encode()
    if not labels:
        raise ValueError(f"{path}: no lines; expected Kassel's letter.data")
    x = np.frombuffer(bits, np.uint8).reshape(-1, _PIXELS) - np.uint8(ord("0"))
    y, test = np.array(labels), np.array(folds) == _TEST
    if test.all() or not test.any():
        return Raw(x, y, None, None, len(LETTERS), str(path), images=True)
    return Raw(x[~test], y[~test], x[test], y[test], len(LETTERS), str(path), images=True)


_FACES = {
    "DejaVuSans": ("", "-Bold", "-Oblique", "-BoldOblique"),
    "DejaVuSansMono": ("", "-Bold", "-Oblique", "-BoldOblique"),
    "DejaVuSerif": ("", "-Bold", "-Italic", "-BoldItalic"),
    "STIXGeneral": ("", "Bol", "Italic", "BolIta"),
    "cm": ("b10", "mi10", "r10", "ss10", "tt10"),
}
_TALL, _WIDE = 30, 17  # height and largest width of a letter before its distortion, of 32 dots
_WINDOW = (slice(2, 26), slice(8, 20))  # the part of the 28x28 distorted pixels with the letter
_INK = 0.35  # share of ink from which a pixel is 1; at a half, thin strokes would break


def faces() -> list[Path]:
    """Files of the fonts with letters that come with matplotlib.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "letters: printed ones are drawn from the fonts that matplotlib carries; "
            "install matplotlib, or give the path= of Kassel's letter.data"
        ) from None
    folder = Path(matplotlib.get_data_path(), "fonts", "ttf")
    return [
        folder / f"{family}{style}.ttf" for family, styles in _FACES.items() for style in styles
    ]


@cache
def originals() -> NDArray[np.float32]:
    """Every letter of every face, all equally tall: (21, 26, 32, 32) ink from 0 to 1."""
    from PIL import Image, ImageDraw, ImageFont

    ink = np.zeros((len(faces()), len(LETTERS), GLYPH_SIDE, GLYPH_SIDE), np.float32)
    for face, file in enumerate(faces()):
        font = ImageFont.truetype(file, 96)
        for label, letter in enumerate(LETTERS):
            page = Image.new("L", (192, 192))
            ImageDraw.Draw(page).text((48, 48), letter, fill=255, font=font)
            glyph = page.crop(page.getbbox())
            wide = min(_WIDE, max(1, round(glyph.width * _TALL / glyph.height)))
            glyph = glyph.resize((wide, _TALL), Image.Resampling.BOX)
            top, left = (GLYPH_SIDE - _TALL) // 2, (GLYPH_SIDE - wide) // 2
            ink[face, label, top : top + _TALL, left : left + wide] = np.asarray(glyph) / 255
    return ink


def split(seed: int) -> tuple[NDArray, NDArray]:
    """Numbers of the faces of the training images, and of the test images; disjoint."""
    order = np.random.default_rng(seed).permutation(len(originals()))
    test = len(order) // ONE_IN
    return order[test:], order[:test]


def make(size: int, seed: int) -> Raw:
    """Make `size` training images of printed letters and a sixth as many test images, 0 or 1.

    All letters of all faces are used nearly equally often. Training and test images come from
    different faces, so no test image is a distortion of an original that was trained on.

    Raises:
        ValueError: size is not from 1,000 to 70,000.
    """
    if not SMALLEST <= size <= LARGEST:
        raise ValueError(f"size={size}: expected from {SMALLEST:,} to {LARGEST:,} letters")
    train, test = split(seed)
    x, y = _print(train, size, (seed, 0))
    x_test, y_test = _print(test, size // (ONE_IN - 1), (seed, 1))
    return Raw(x, y, x_test, y_test, len(LETTERS), "printed letters", images=True)


def _print(
    chosen: NDArray, rows: int, seed: tuple[int, int]
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Distorted letters of the chosen faces in turn, (rows, 128), and labels, (rows,)."""
    from scipy import ndimage

    ink = originals()[chosen]
    face, label = np.divmod(np.arange(rows) % (len(chosen) * len(LETTERS)), len(LETTERS))
    which = face * len(LETTERS) + label
    grey = draw(ink.reshape(-1, GLYPH_SIDE, GLYPH_SIDE), which, seed)[:, *_WINDOW]
    zoom = (1, HEIGHT / grey.shape[1], WIDTH / grey.shape[2])
    small = ndimage.zoom(grey, zoom, order=1, mode="grid-constant", grid_mode=True)
    return (small > 255 * _INK).astype(np.uint8).reshape(rows, -1), label
