"""The seeded order of the rows in a training, the same on every rank."""

from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np

from nn.arguments import as_int
from nn.batch import Batch
from nn.data.prefetch import as_part
from nn.data.prefetch import prefetch as read_ahead

Rows = TypeVar("Rows", bound=Batch)


def batches_in_order(
    make: Callable[..., Rows],
    rows: int,
    batch_size: int,
    epochs: int,
    seed: int,
    start: int,
    prefetch: int,
    part: tuple[int, int],
) -> Iterator[Rows]:
    """Iterate over global batches; each epoch shuffles all rows anew.

    Args:
        make: called with `index=`, row numbers of the set, makes a batch of these.
        rows: number of rows of the set.
        batch_size, epochs, seed, start, prefetch, part: as for `Dataset.batches`, which says what
            is raised.
    """
    size = as_int("batch_size", batch_size, 1)
    first, last = as_int("start", start, 0), as_int("epochs", epochs, 0)
    batches = _batches(make, rows, size, last, as_int("seed", seed, 0), first)
    ahead, part = as_int("prefetch", prefetch, 0), as_part(part)
    return read_ahead(batches, ahead, part=part) if ahead else batches  # type: ignore[return-value]


def steps_per_epoch(rows: int, batch_size: int) -> int:
    """Number of batches in an epoch; a last, partial batch counts.

    Raises:
        TypeError: batch_size is not a whole number.
        ValueError: batch_size < 1.
    """
    return -(-rows // as_int("batch_size", batch_size, 1))


def _batches(
    make: Callable[..., Rows], rows: int, size: int, epochs: int, seed: int, start: int
) -> Iterator[Rows]:
    done, skip = divmod(start, steps_per_epoch(rows, size))
    for epoch in range(done, epochs):
        order = np.arange(rows, dtype=np.int32)
        np.random.default_rng((seed, epoch)).shuffle(order)
        for lo in range(skip * size, len(order), size):
            batch = make(index=order[lo : lo + size])
            batch.ends_epoch = lo + size >= len(order)
            yield batch
        skip = 0
