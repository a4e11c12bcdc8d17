"""Formulas of collectives equal the messages of the algorithms, played block by block."""

from fractions import Fraction

import pytest

from bench.cost_model.collectives import SMALL, allreduce, chosen

pytestmark = [pytest.mark.workers(1)]


def ring(ranks, size):
    """Sum vectors in a ring; return what a rank sent, and check that all have the whole sum."""
    part = Fraction(size, ranks)
    held = [[{rank} for _ in range(ranks)] for rank in range(ranks)]
    messages = sent = combined = 0
    for step in range(2 * (ranks - 1)):
        adds = step < ranks - 1
        moved = [(rank, (rank - step + (not adds) * ranks) % ranks) for rank in range(ranks)]
        if not adds:
            moved = [(rank, (rank + 1 - (step - ranks + 1)) % ranks) for rank in range(ranks)]
        blocks = [(rank, block, set(held[rank][block])) for rank, block in moved]
        for rank, block, terms in blocks:
            target = held[(rank + 1) % ranks]
            assert not adds or not target[block] & terms  # nothing is added twice
            target[block] = target[block] | terms if adds else terms
        messages, sent, combined = messages + 1, sent + part, combined + adds * part
    assert all(block == set(range(ranks)) for own in held for block in own)
    return messages, sent, combined


def doubling(ranks, size):
    held, distance = [{rank} for rank in range(ranks)], 1
    messages = sent = combined = 0
    while distance < ranks:
        held = [held[rank] | held[rank ^ distance] for rank in range(ranks)]
        messages, sent, combined = messages + 1, sent + size, combined + size
        distance *= 2
    assert all(own == set(range(ranks)) for own in held)
    return messages, sent, combined


def halving_then_doubling(ranks, size):
    """Reduce and scatter by halves, gather by doubling."""
    part, messages, sent, combined = Fraction(size), 0, Fraction(0), Fraction(0)
    for _ in range(ranks.bit_length() - 1):
        part /= 2
        messages, sent, combined = messages + 1, sent + part, combined + part
    assert part == Fraction(size, ranks)
    while part < size:
        messages, sent, part = messages + 1, sent + part, 2 * part
    return messages, sent, combined


@pytest.mark.parametrize("size", [7, 940_588])
@pytest.mark.parametrize("ranks", [2, 3, 4, 7, 8, 16])
def test_a_ring_sends_what_is_counted(ranks, size):
    assert tuple(allreduce("ring", ranks, size)) == ring(ranks, size)


@pytest.mark.parametrize("ranks", [2, 4, 8, 1024])
@pytest.mark.parametrize(
    ("algorithm", "played"),
    [("recursive doubling", doubling), ("rabenseifner", halving_then_doubling)],
)
def test_rounds_of_pairs_send_what_is_counted(algorithm, played, ranks):
    assert tuple(allreduce(algorithm, ranks, 4096)) == played(ranks, 4096)


@pytest.mark.parametrize("algorithm", ["recursive doubling", "rabenseifner"])
def test_ranks_beyond_a_power_of_two_are_folded_and_told(algorithm):
    four, five = allreduce(algorithm, 4, 100), allreduce(algorithm, 5, 100)
    assert tuple(b - a for a, b in zip(four, five)) == (2, 200, 100)


def test_one_rank_sends_nothing_and_an_unknown_algorithm_is_refused():
    assert tuple(allreduce("ring", 1, 100)) == (0, 0, 0)
    with pytest.raises(ValueError, match="expected one of ring"):
        allreduce("tree", 2, 100)


def test_short_messages_take_the_algorithm_of_few_messages():
    assert (chosen(SMALL - 1), chosen(SMALL)) == ("recursive doubling", "ring")
