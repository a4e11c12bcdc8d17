"""Blocks of a flat vector: which elements of the parameters a rank holds."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nn.optim import Part
from nn.parameters import Parameter

EVERYTHING = (slice(None),)


class Block(NamedTuple):
    """The `part` of an array of `shape` that lies in a flat vector at `start`."""

    start: int
    shape: tuple[int, ...]
    part: tuple[slice, ...] = EVERYTHING

    def of(self, vector: NDArray) -> NDArray:
        """Return the block of a full vector, a view."""
        stop = self.start + math.prod(self.shape)
        return vector[self.start : stop].reshape(self.shape)[self.part]

    @property
    def size(self) -> int:
        """Elements of the block."""
        cut = [len(range(*key.indices(n))) for key, n in zip(self.part, self.shape)]
        return math.prod(cut) * math.prod(self.shape[len(cut) :])

    def shifted(self, by: int) -> "Block":
        return self._replace(start=self.start + by)


Layout = list[Block]
"""The blocks of the full vector that a rank holds, in the order of its own flat vector."""


def take(full: NDArray, layout: Layout) -> NDArray:
    """Return a rank's own flat vector, a copy out of the full one."""
    return np.concatenate([np.empty(0, full.dtype), *(block.of(full).ravel() for block in layout)])


def parts_between(parameters: Sequence[Parameter], lo: int, hi: int) -> Iterator[Part]:
    """Yield the parts of elements lo to hi - 1 of the full vector."""
    for parameter in parameters:
        size = min(hi, parameter.stop) - max(lo, parameter.start)
        if size > 0:
            is_whole = size == parameter.size
            shape = parameter.shape if is_whole else None
            yield Part(parameter.name, size, shape, parameter.may_lack_gradient)


def parts_of(parameters: Sequence[Parameter], layout: Layout) -> Iterator[Part]:
    """Yield the parts of the blocks of a layout."""
    for block in layout:
        if block.part == EVERYTHING:
            yield from parts_between(parameters, block.start, block.start + block.size)
        elif block.size:  # a block that is cut lies within one parameter
            of = next(p for p in parameters if p.start <= block.start < p.stop)
            yield Part(of.name, block.size, None, of.may_lack_gradient)
