"""Documents, of which a text is made, and their division into two parts."""

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from nn.arguments import as_int
from nn.data.raw import ONE_IN


class Document(NamedTuple):
    """A text that is trained on as a whole: a file, a page, a problem with its solution.

    Attributes:
        name: where it comes from, for people.
        text: its bytes. UTF-8 is what tokenizers are made for, but any bytes are taken.
    """

    name: str
    text: bytes


class Problem(NamedTuple):
    """A problem with a solution.

    Attributes:
        name: where it comes from.
        prompt: what a net is given: the statement, and all that stands before the solution.
        solution: what it should write.
    """

    name: str
    prompt: str
    solution: str

    @property
    def document(self) -> Document:
        return Document(self.name, (self.prompt + self.solution).encode())


Item = TypeVar("Item", Document, Problem)


def apart(items: Sequence[Item], seed: int = 0) -> tuple[list[Item], list[Item]]:
    """Divide documents, or problems, into those that train and one in seven to test with.

    So nothing of a document is on both sides. The choice depends on the number of items and the
    seed; each part keeps their order.

    Raises:
        ValueError: there are fewer than two.
    """
    if len(items) < 2:
        raise ValueError(f"{len(items)} documents: expected two or more, of which some test")
    order = np.random.default_rng(as_int("seed", seed, 0)).permutation(len(items)).tolist()
    test = set(order[: max(1, len(items) // ONE_IN)])
    return (
        [item for i, item in enumerate(items) if i not in test],
        [item for i, item in enumerate(items) if i in test],
    )
