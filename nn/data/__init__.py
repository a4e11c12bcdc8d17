"""Data sets: `load(name)` gives a `Dataset`, prepared once and memory-mapped from then on."""

from collections.abc import Callable
from functools import partial
from os import PathLike
from pathlib import Path

from nn.arguments import whole
from nn.data import cache, digits, files, iris, mnist
from nn.data.dataset import Dataset
from nn.data.prepare import prepare
from nn.data.raw import Raw

__all__ = ["Dataset", "load"]

_NAMES = ("digits", "file", "iris", "mnist")
_LARGEST_SEED = 2**32 - 1  # scikit-learn's limit


def load(
    name: str,
    size: int | None = None,
    features: int | None = None,
    seed: int = 0,
    *,
    path: str | PathLike[str] | None = None,
    normalise: bool = True,
) -> Dataset:
    """A data set, prepared as asked; from the cache where it was prepared before.

    Names:
        "digits": real handwritten digits of scikit-learn at 28x28, distorted (see `digits`):
            size from 1,000 to 70,000 (10,000 by default), and a sixth as many test rows.
        "iris": 150 flowers, 4 columns, 3 classes.
        "mnist": the user's own MNIST files at `path`: a folder of IDX files (plain or gzip), one
            of them, or a `.npz` or `.mat` file.
        "file": any other set, a `.npz` or `.mat` file with arrays x, y and, if it is divided,
            x_test, y_test; as `Dataset.save` writes them.

    Where a source has no test rows of its own, one row in seven is set aside (stratified, by
    `seed`). Then `size` training rows are chosen (by `seed`), all are normalised, and projected
    onto `features` principal components; mean, deviation and components are those of the
    training rows. `prepare` has the details.

    Prepared sets lie in $LOCKSTEP_CACHE, or else in the user's cache folder. Any number of
    processes may call this at once with the same arguments: one prepares the set, the others
    sleep until they can map it.

    Args:
        name: one of the above.
        size: training rows; all of them by default.
        features: principal components to keep; by default the columns stay as they are.
        seed: of the division into training and test rows, the choice of rows, the distortions.
        path: file or folder, for "mnist" and "file" alone.
        normalise: shift and scale to mean 0, deviation 1 over the training rows: all pixels of
            images (uint8, or "mnist") alike, else by column.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: an argument is out of range, or a file is damaged or makes no data set.
        FileNotFoundError: `path` names nothing, or files are missing there.
        OSError: the cache folder cannot be used.
    """
    if name not in _NAMES:
        raise ValueError(f"{name!r}: no such data set; expected one of {', '.join(_NAMES)}")
    size = None if size is None else whole("size", size, 1)
    features = None if features is None else whole("features", features, 1)
    seed = whole("seed", seed, 0, _LARGEST_SEED)
    if not isinstance(normalise, bool):
        raise TypeError(f"normalise={normalise!r}: expected True or False")
    if (path is None) == (name in ("file", "mnist")):
        own = 'for files of your own; without any, use "digits"'
        raise ValueError(f"{name}: expected {'path=, ' + own if path is None else 'no path='}")

    source: Callable[[], Raw]
    contents: list[tuple[str, str]] = []
    if path is not None:
        paths = mnist.find(Path(path)) if name == "mnist" else [files.find(Path(path))]
        contents = [(file.name, files.digest(file)) for file in paths]
        source = partial(mnist.read, paths) if name == "mnist" else partial(files.read, paths[0])
    elif name == "digits":
        size = digits.USUAL if size is None else size
        source = partial(digits.make, size, seed)
    else:
        source = iris.make

    def make() -> tuple[dict[str, int], cache.Arrays]:
        raw = source()
        return {"classes": raw.classes}, prepare(raw, size, seed, features, normalise)

    key = dict(name=name, size=size, features=features, seed=seed, normalise=normalise)
    return Dataset(name, **cache.fetch(name, {**key, "contents": contents}, make))
