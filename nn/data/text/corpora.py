"""Text that comes with Python: the source of its standard library, and its language reference."""

import sysconfig
from pathlib import Path

import numpy as np

from nn.arguments import as_int
from nn.data.text.documents import Document
from nn.regular_file import open_regular

_LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idle_test", "pydoc_data"}


def library(size: int | None = None, seed: int = 0) -> list[Document]:
    """Return the modules of the standard library, without its tests, and the language reference.

    The reference is what `help("lambda")` shows, one document for each topic. Python 3.11 has
    about 730 modules of 11 MB and 80 topics of 0.5 MB.

    Args:
        size: take documents, chosen by `seed`, until they have at least so many bytes; by default
            all.
        seed: seed of the choice. Names and contents depend on the version of Python.

    Raises:
        TypeError, ValueError: size is not a whole number of at least 1, or larger than the library.
    """
    found = [*_modules(), *_topics()]
    if size is None:
        return found
    as_int("size", size, 1)
    chosen: list[int] = []
    taken = 0
    for i in np.random.default_rng(as_int("seed", seed, 0)).permutation(len(found)):
        if taken >= size:
            return [found[i] for i in sorted(chosen)]
        chosen.append(int(i))
        taken += len(found[i].text)
    raise ValueError(f"size={size}: expected up to {taken:,} bytes, as the library has")


def _modules() -> list[Document]:
    folder = Path(sysconfig.get_path("stdlib"))
    documents = []
    for path in sorted(folder.rglob("*.py")):
        place = path.relative_to(folder)
        if path.is_file() and not _LEFT_OUT.intersection(place.parts):
            with open_regular(path) as file:
                documents.append(Document(str(place), file.read()))
    return documents


def _topics() -> list[Document]:
    from pydoc_data.topics import topics

    return [Document(f"help({name!r})", text.encode()) for name, text in sorted(topics.items())]
