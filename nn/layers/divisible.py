"""Layers that say themselves how ranks can share their work."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from nn.layers.base import Layer, Shape

Piece = tuple[Shape, tuple[slice, ...]]
"""The shape in which to see a parameter, and the part of an array of that shape."""


class Divisible(Layer):
    """A layer of which each of several ranks can compute a part, for the same whole rows.

    Input and output are whole on every rank, with equal shapes. The parts sum arrays of that shape
    over the ranks, `sums` times forward and as often backward.
    """

    sums = 1

    @abstractmethod
    def pieces(self, rank: int, ranks: int) -> Sequence[Piece]:
        """Say which part of each parameter a rank holds, in the order of `shapes`.

        Of a parameter the pieces of all ranks are disjoint and together the whole, or each is the
        whole, which then has the same gradient on every rank.
        """

    @abstractmethod
    def part(self, rank: int, comm: Any) -> Layer:
        """Return this rank's part as a layer whose parameters, the pieces, are still to be bound.

        Args:
            rank: of the ranks of `comm`.
            comm: an object with `size`, and with `Allreduce(send, receive)` of numpy arrays.
        """
