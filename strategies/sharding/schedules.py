"""Pipeline schedules as data: the order of forward and backward operations of every rank.

Nothing here communicates. A net is cut into `ranks * chunks` stages, stage s on rank s % ranks, and
every micro-batch passes each stage forward and backward once; who sends what to whom follows from
that. In all schedules each stage runs backward in the order of the micro-batches, so all of them
sum a gradient in the same order and agree to the bit.

With m micro-batches, P ranks and equal stages a step lasts, in units of one forward and one
backward of all the layers of a rank:

=========== ============== ==================== ==============================================
schedule    duration       idle share           most live contexts on rank r
=========== ============== ==================== ==============================================
naive       m P            (P-1)/P              1 (a micro-batch at a time)
gpipe       m + P-1        (P-1)/(m+P-1)        m
1f1b        m + P-1        (P-1)/(m+P-1)        min(m, P-r)
interleaved m + (P-1)/v    (P-1)/(v m+P-1)      min(v m, v P-r), of v stages a rank, each 1/v long
=========== ============== ==================== ==============================================

(interleaved: where P divides m; other m leave further gaps.) GPipe: Huang et al., "GPipe" (2019),
section 2.3. 1F1B: Narayanan et al., "PipeDream" (2019), section 3.2, with the flush of "Efficient
large-scale language model training on GPU clusters" (2021), section 2.2.1; interleaved: the same,
section 2.2.2, with the shorter warm-up that suffices when transfers take no time.
"""

from typing import NamedTuple

from nn.arguments import as_int


class Op(NamedTuple):
    """Forward ("F") or backward ("B") of one micro-batch through one stage."""

    kind: str
    stage: int
    micro: int


Schedule = list[list[Op]]
"""The operations of each rank in order."""


def naive(ranks: int, micro_batches: int, chunks: int = 1) -> Schedule:
    """Pass one micro-batch forward and backward after the other: nothing overlaps."""
    return [
        [
            Op(kind, stage, i)
            for i in range(micro_batches)
            for kind, order in (("F", 1), ("B", -1))
            for stage in range(rank, ranks * chunks, ranks)[::order]
        ]
        for rank in range(ranks)
    ]


def gpipe(ranks: int, micro_batches: int) -> Schedule:
    """Run all forwards, then all backwards."""
    return [_warmed_up(rank, ranks, micro_batches, 1, micro_batches) for rank in range(ranks)]


def one_f_one_b(ranks: int, micro_batches: int) -> Schedule:
    """Run each backward as early as possible, so that fewer micro-batches are alive at once."""
    return interleaved(ranks, micro_batches, chunks=1)


def interleaved(ranks: int, micro_batches: int, chunks: int) -> Schedule:
    """Run 1F1B with several stages on each rank: shorter pieces of work leave shorter gaps."""
    return [
        _warmed_up(rank, ranks, micro_batches, chunks, chunks * ranks - 1 - rank)
        for rank in range(ranks)
    ]


def _warmed_up(rank: int, ranks: int, micro_batches: int, chunks: int, warm_up: int) -> list[Op]:
    """Order `warm_up` forwards, then forwards and backwards in turn, then the other backwards.

    Micro-batches pass in groups of `ranks`: a group runs through all stages of a rank before the
    next begins, which is when its outputs have been all the way round.
    """
    groups = [range(lo, min(lo + ranks, micro_batches)) for lo in range(0, micro_batches, ranks)]
    stages = range(rank, ranks * chunks, ranks)
    forward = [Op("F", stage, i) for group in groups for stage in stages for i in group]
    backward = [Op("B", stage, i) for group in groups for stage in stages[::-1] for i in group]
    warm_up = min(warm_up, len(forward))
    steady = [op for pair in zip(forward[warm_up:], backward) for op in pair]
    return forward[:warm_up] + steady + backward[len(forward) - warm_up :]


SCHEDULES = ("naive", "gpipe", "1f1b", "interleaved")


def schedule(name: str, ranks: int, micro_batches: int, chunks: int = 1) -> Schedule:
    """Make the schedule of that name with `chunks` stages on each rank (1 unless interleaved).

    Raises:
        TypeError: a count is not a whole number.
        ValueError: the name is unknown, a count is below 1, or the schedule has one stage on each
            rank and `chunks` is more.
    """
    if name not in SCHEDULES:
        raise ValueError(f"schedule={name!r}: expected one of {', '.join(SCHEDULES)}")
    micro_batches = as_int("micro_batches", micro_batches, 1)
    chunks = as_int("chunks", chunks, 1)
    if name == "interleaved":
        return interleaved(ranks, micro_batches, chunks)
    if chunks > 1:
        raise ValueError(
            f"chunks={chunks}: only the interleaved schedule has several stages on each rank"
        )
    return {"naive": naive, "gpipe": gpipe, "1f1b": one_f_one_b}[name](ranks, micro_batches)
