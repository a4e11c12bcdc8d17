"""Data sets: `load(name)` gives a `Dataset`, prepared once and memory-mapped from then on."""

from functools import partial
from os import PathLike
from pathlib import Path

from nn.arguments import whole
from nn.data import cache, files
from nn.data.dataset import Dataset
from nn.data.prepare import prepare
from nn.data.sources import MADE, NAMES, READ

__all__ = ["Dataset", "load"]

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

    Where a source has no test rows of its own, one row in seven is set aside (stratified, by
    `seed`). Then `size` training rows are chosen (by `seed`), all are normalised, and projected
    onto `features` principal components; mean, deviation and components are those of the
    training rows. `prepare` has the details.

    Prepared sets lie in $LOCKSTEP_CACHE, or else in the user's cache folder. Any number of
    processes may call this at once with the same arguments: one prepares the set, the others
    sleep until they can map it.

    Args:
        name: one of `NAMES`; `nn.data.sources` describes each.
        size: training rows; all of them by default.
        features: principal components to keep; by default the columns stay as they are.
        seed: of the division into training and test rows, the choice of rows, the distortions.
        path: the user's file or folder, for the sets that are read from files.
        normalise: shift and scale to mean 0, deviation 1 over the training rows: all pixels of
            images alike, else by column.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: an argument is out of range, or a file is damaged or makes no data set.
        FileNotFoundError: `path` names nothing, or files are missing there.
        OSError: the cache folder cannot be used.
    """
    if name not in NAMES:
        raise ValueError(f"{name!r}: no such data set; expected one of {', '.join(NAMES)}")
    size = None if size is None else whole("size", size, 1)
    features = None if features is None else whole("features", features, 1)
    seed = whole("seed", seed, 0, _LARGEST_SEED)
    if not isinstance(normalise, bool):
        raise TypeError(f"normalise={normalise!r}: expected True or False")

    if path is None and name in MADE:
        made = MADE[name]
        name = made.title or name
        size = made.usual if size is None else size
        paths, rows = made.material(), partial(made.make, size, seed)
    elif path is not None and name in READ:
        paths = READ[name].find(Path(path))
        rows = partial(READ[name].read, paths)
    else:
        own = 'for files of your own; without any, use "digits"'
        raise ValueError(f"{name}: expected {'path=, ' + own if path is None else 'no path='}")
    contents = [(file.name, files.digest(file)) for file in paths]

    def make() -> tuple[dict[str, int], cache.Arrays]:
        raw = rows()
        return {"classes": raw.classes}, prepare(raw, size, seed, features, normalise)

    key = dict(name=name, size=size, features=features, seed=seed, normalise=normalise)
    return Dataset(name, **cache.fetch(name, {**key, "contents": contents}, make))
