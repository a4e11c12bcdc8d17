"""Where rows come from, by the name of the data set. A new set is an entry here.

"cifar10": the user's CIFAR-10, a folder of the binary version's files. Without a path, painted
    images of that shape (3x32x32, see `cifar10`), called "cifar10-shaped": size from 1,000 to
    50,000 (10,000 by default), and a fifth as many test rows.
"digits": real handwritten digits of scikit-learn at 28x28, distorted (see `digits`): size from
    1,000 to 70,000 (10,000 by default), and a sixth as many test rows.
"file": any set of the user's, a `.npz` or `.mat` file with arrays x, y and, if it is divided,
    x_test, y_test; as `Dataset.save` writes them.
"iris": 150 flowers, 4 columns, 3 classes.
"letters": the user's file of R. Kassel's handwritten letters, 16x8 bits, 26 classes. Without a
    path, printed letters of that shape, distorted (see `letters`), called "letters-printed":
    size from 1,000 to 70,000 (10,000 by default), and a sixth as many test rows.
"mnist": the user's own MNIST files: a folder of IDX files (plain or gzip), one of them, or a
    `.npz` or `.mat` file.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from nn.data import cifar10, digits, files, iris, letters, mnist
from nn.data.raw import Raw


def _no_files() -> list[Path]:
    return []


@dataclass(frozen=True)
class Made:
    """Rows that need no file of the user's.

    Attributes:
        make: (training rows or None, seed) -> rows.
        usual: training rows where none are asked for; None for all there are.
        title: the set's name in outputs, where its own belongs to the files of another.
        material: files that the rows depend on.
    """

    make: Callable[..., Raw]
    usual: int | None = None
    title: str | None = None
    material: Callable[[], list[Path]] = _no_files


@dataclass(frozen=True)
class Files:
    """Rows of the user's files.

    Attributes:
        find: path of the user -> the files behind it.
        read: these files -> rows.
    """

    find: Callable[[Path], list[Path]]
    read: Callable[[list[Path]], Raw]


MADE = {
    "cifar10": Made(cifar10.make, usual=cifar10.USUAL, title="cifar10-shaped"),
    "digits": Made(digits.make, usual=digits.USUAL),
    "iris": Made(lambda size, seed: iris.make()),
    "letters": Made(
        letters.make, usual=letters.USUAL, title="letters-printed", material=letters.faces
    ),
}
READ = {
    "cifar10": Files(cifar10.find, cifar10.read),
    "file": Files(lambda path: [files.find(path)], lambda paths: files.read(*paths)),
    "letters": Files(letters.find, letters.read),
    "mnist": Files(mnist.find, mnist.read),
}
NAMES = sorted({*MADE, *READ})
