"""What an Allreduce sends on its critical path, by algorithm, and which algorithm is taken.

`n` bytes on P ranks take `alpha * messages + beta * sent + gamma * combined` seconds. Thakur,
Rabenseifner, Gropp, "Optimization of collective communication operations in MPICH" (2005), sections
4.3 to 4.5, with P a power of two for all but the ring; other P first fold the ranks beyond it into
their neighbours, and hand the result back (section 4.4).
"""

from fractions import Fraction
from typing import NamedTuple

ALGORITHMS = ("ring", "recursive doubling", "rabenseifner")

SMALL = 10_000
"""Bytes below which the latency counts: see `chosen`."""


class Traffic(NamedTuple):
    """Messages, bytes sent, and bytes combined with own ones, on the critical path of a rank."""

    messages: Fraction
    sent: Fraction
    combined: Fraction

    def times(self, factor: Fraction | int) -> "Traffic":
        """The traffic of so many of these, one after the other."""
        return Traffic(*(factor * part for part in self))


NOTHING = Traffic(Fraction(0), Fraction(0), Fraction(0))


def chosen(size: int) -> str:
    """The algorithm that Open MPI takes for an Allreduce of so many bytes.

    The fixed decision of its module `tuned` (`coll_tuned_decision_fixed.c`): recursive doubling
    below 10,000 bytes, and a ring above, in segments or not. Newer versions have a table by ranks
    and sizes in its place, which this does not repeat.
    """
    return "recursive doubling" if size < SMALL else "ring"


def allreduce(algorithm: str, ranks: int, size: int) -> Traffic:
    """Count the traffic of an Allreduce of `size` bytes.

    Raises:
        ValueError: the algorithm is unknown.
    """
    if algorithm not in ALGORITHMS:
        raise ValueError(f"algorithm={algorithm!r}: expected one of {', '.join(ALGORITHMS)}")
    if ranks == 1:
        return NOTHING
    if algorithm == "ring":
        part = Fraction((ranks - 1) * size, ranks)
        return Traffic(Fraction(2 * (ranks - 1)), 2 * part, part)
    rounds = ranks.bit_length() - 1
    power = 2**rounds
    fold = ranks > power
    if algorithm == "recursive doubling":
        counted = Traffic(Fraction(rounds), Fraction(rounds * size), Fraction(rounds * size))
    else:
        part = Fraction((power - 1) * size, power)
        counted = Traffic(Fraction(2 * rounds), 2 * part, part)
    folded = Traffic(Fraction(2), Fraction(2 * size), Fraction(size)) if fold else NOTHING
    return Traffic(*(a + b for a, b in zip(counted, folded)))
