"""A data set that takes in pictures while it is trained on.

Lanes that are compared must train on the same batches, though one may be epochs ahead of another.
So a picture that is added comes with the epoch from which on it counts, in every lane: one that
none has begun.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nn import Batch
from nn.data import Dataset

COPIES = 20
"""How many times a picture is added: once among 10,000 it would change next to nothing."""


@dataclass(frozen=True)
class Lesson:
    """A picture that was added to the data.

    Attributes:
        picture: its normalised values.
        label: class number.
        epoch: the first epoch that has it, from 0.
    """

    picture: list[float]
    label: int
    epoch: int


class Taught:
    """A data set with the lessons that are known when an epoch begins.

    Args:
        dataset: what is trained on without any.
        lessons: called when an epoch begins, on every rank, with its number; returns all lessons
            that count in it, the same on every rank. Collective if it communicates.

    Attributes:
        at_end: whether the batch that was given last is the last of all.
    """

    def __init__(self, dataset: Dataset, lessons: Callable[[int], Sequence[Lesson]]):
        self.dataset, self._lessons = dataset, lessons
        self.name, self.x = dataset.name, dataset.x
        self.at_end = False

    def batches(
        self, batch_size: int, epochs: int = 1, seed: int = 0, start: int = 0
    ) -> Iterator[Batch]:
        """Iterate over batches as `Dataset.batches` does, epoch by epoch.

        Raises:
            ValueError: `start` is not 0, since epochs may differ in length.
        """
        if start:
            raise ValueError(f"start={start}: expected 0, since epochs may differ in length")
        now, known = self.dataset, 0
        for epoch in range(epochs):
            lessons = self._lessons(epoch)
            if len(lessons) > known:
                now, known = with_lessons(self.dataset, lessons), len(lessons)
            steps = now.steps_per_epoch(batch_size)
            for batch in now.batches(batch_size, epoch + 1, seed, epoch * steps):
                self.at_end = batch.ends_epoch and epoch + 1 == epochs
                yield batch


def with_lessons(dataset: Dataset, lessons: Sequence[Lesson]) -> Dataset:
    """Return the set with COPIES of each lesson behind its training rows."""
    pictures = np.array([each.picture for each in lessons], np.float32)
    labels = np.array([each.label for each in lessons], np.int64)
    return replace(
        dataset,
        x=np.concatenate([dataset.x, np.repeat(pictures, COPIES, 0)]),
        y=np.concatenate([dataset.y, np.repeat(labels, COPIES)]),
    )


def lessons_in(keys: Sequence[dict[str, Any]]) -> list[Lesson]:
    """Make lessons of a message."""
    return [Lesson(**each) for each in keys]
