"""The data sets that can be raced on, and the user's own."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nn import data
from nn.data import Dataset
from nn.data.sets.letters import HEIGHT, LETTERS, WIDTH

DIGITS = [*"0123456789"]
_FLOWERS = [f"{2 + k % 5} petals{', hollow' * (k >= 5)}" for k in range(10)]
_PHOTOS = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


@dataclass(frozen=True)
class Source:
    """A data set that can be raced on.

    Attributes:
        name: how the page and the record call it.
        title: what it is, in a few words.
        arguments: of `nn.data.load`.
        shape: of a picture: channels, height, width.
        labels: what each class is called.
        written: whether its pictures are of pen strokes, so that one can be drawn.
        hint: what to know before one is drawn.
        missing: why it cannot be chosen; empty if it can.
    """

    name: str
    title: str
    arguments: Mapping[str, Any]
    shape: tuple[int, int, int]
    labels: list[str] = field(default_factory=list)
    written: bool = True
    hint: str = ""
    missing: str = ""

    def load(self) -> Dataset:
        """Load the set, as every rank of a lane does.

        Raises:
            OSError, ValueError: as `nn.data.load`.
        """
        return data.load(**self.arguments)

    def raw(self) -> Dataset:
        """Load the same rows as they were before they were normalised."""
        return data.load(**self.arguments, normalise=False)


@dataclass(frozen=True)
class Scale:
    """What normalising did to the values of pictures: x -> (x - mean) / deviation.

    Attributes:
        top: the value of full ink.
    """

    mean: float
    deviation: float
    top: float

    @classmethod
    def of(cls, raw: NDArray, normal: NDArray) -> "Scale":
        """Find the scale by which `normal`, (n, d), was made of `raw`, (n, d).

        All pixels share one mean and one deviation, so two different ones say what they are.
        """
        low, high = np.argmin(raw[0]), np.argmax(raw[0])
        deviation = float((raw[0, high] - raw[0, low]) / (normal[0, high] - normal[0, low]))
        mean = float(raw[0, low] - normal[0, low] * deviation)
        return cls(mean, deviation, float(raw[:1000].max()))

    def normal(self, ink: NDArray) -> NDArray[np.float32]:
        """Normalise pictures of ink from 0 to 1."""
        return ((ink * self.top - self.mean) / self.deviation).astype(np.float32)

    def ink(self, normal: NDArray) -> NDArray[np.float64]:
        """Return the ink, from 0 to 1, of normalised pictures."""
        return np.clip((normal.astype(float) * self.deviation + self.mean) / self.top, 0, 1)


def sources(
    rows: int = 10_000,
    mnist: str | None = None,
    letters: str | None = None,
    cifar10: str | None = None,
) -> dict[str, Source]:
    """Every data set by name; those of the user's files where their path is given.

    Args:
        rows: training rows of the sets that are made here.

    Raises:
        OSError, ValueError: a path leads to no such set, as `nn.data.load` says.
    """
    needed = [name for name in ("matplotlib", "PIL") if find_spec(name) is None]
    why = "needs matplotlib and pillow: start it by nox -s demo" if needed else ""
    letter = (1, HEIGHT, WIDTH)

    def of(name: str) -> dict[str, Any]:
        return {"name": name, "size": rows}

    made = [
        Source(
            *("digits", f"{rows:,} handwritten digits", of("digits"), (1, 28, 28), DIGITS),
            hint="In this data, most sevens have a bar through the stem.",
        ),
        Source(
            *("letters-printed", f"{rows:,} printed lower-case letters", of("letters")),
            *(letter, LETTERS),
            hint="In this data, letters are lower-case and printed.",
            missing=why,
        ),
        Source(
            *("cifar10-shaped", f"{rows:,} painted flowers in colour", of("cifar10")),
            *((3, 32, 32), _FLOWERS),
            written=False,
        ),
    ]
    given = [
        (mnist, "mnist", "your MNIST", (1, 28, 28), DIGITS, True),
        (letters, "letters", "your handwritten letters", letter, LETTERS, True),
        (cifar10, "cifar10", "your CIFAR-10", (3, 32, 32), _PHOTOS, False),
    ]
    for path, name, title, shape, labels, written in given:
        if path is not None:
            own = {"name": name, "path": str(Path(path).absolute())}
            made.append(Source(name, title, own, shape, labels, written))
    for source in made:
        if "path" in source.arguments:
            _check(source)
    return {source.name: source for source in made}


def _check(source: Source) -> None:
    """Load the user's files now, so that what is wrong with them is said at once."""
    found = source.load()
    width = int(np.prod(source.shape))
    if found.x.shape[1] != width or found.classes > len(source.labels):
        raise ValueError(
            f"{source.arguments['path']}: {found.x.shape[1]} columns and {found.classes} classes; "
            f"expected {width} columns and at most {len(source.labels)} classes"
        )
