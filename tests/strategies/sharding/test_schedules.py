"""Pipeline schedules, proven as data: complete, in order, free of deadlock, and as fast as said."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies.costs import idle_share, live_contexts
from strategies.sharding.schedules import SCHEDULES, Op, schedule
from tests.support.pipeline_simulator import (
    Deadlock,
    diagram,
    most_live,
    run_synchronously,
    stages_of,
    times,
)

pytestmark = pytest.mark.workers(1)

DIAGRAMS = {
    ("naive", 3, 2, 1): """
F0  .  .  .  . B0 F1  .  .  .  . B1
 . F0  .  . B0  .  . F1  .  . B1  .
 .  . F0 B0  .  .  .  . F1 B1  .  .
""",
    ("gpipe", 3, 4, 1): """
F0 F1 F2 F3  .  .  .  . B0 B1 B2 B3
 . F0 F1 F2 F3  .  . B0 B1 B2 B3  .
 .  . F0 F1 F2 F3 B0 B1 B2 B3  .  .
""",
    ("1f1b", 3, 4, 1): """
F0 F1 F2  .  . B0 F3 B1  . B2  . B3
 . F0 F1  . B0 F2 B1 F3 B2  . B3  .
 .  . F0 B0 F1 B1 F2 B2 F3 B3  .  .
""",
    ("1f1b", 4, 2, 1): """
F0 F1  .  .  .  .  . B0  . B1
 . F0 F1  .  .  . B0  . B1  .
 .  . F0 F1  . B0  . B1  .  .
 .  .  . F0 B0 F1 B1  .  .  .
""",
    # Two stages a rank: F and B are of stages 0 and 1, f and b of stages 2 and 3.
    ("interleaved", 2, 4, 2): """
F0 F1 f0 f1  . b0 F2 b1 F3 B0 f2 B1 f3 b2  . b3 B2 B3
 . F0 F1 f0 b0 f1 b1 F2 B0 F3 B1 f2 b2 f3 b3 B2 B3  .
""",
}


@pytest.mark.parametrize("case", DIAGRAMS, ids=str)
def test_looks_as_people_draw_it(case):
    assert diagram(schedule(*case)) == DIAGRAMS[case].strip("\n")


@st.composite
def cases(draw):
    name = draw(st.sampled_from(SCHEDULES))
    chunks = draw(st.integers(1, 4)) if name == "interleaved" else 1
    return name, draw(st.integers(1, 6)), draw(st.integers(1, 13)), chunks


@given(cases())
def test_every_micro_batch_passes_every_stage_once_there_and_back(case):
    _, ranks, micro_batches, chunks = case
    made = schedule(*case)
    assert stages_of(made) == ranks * chunks
    for rank, ops in enumerate(made):
        expected = {
            Op(kind, stage, i)
            for kind in "FB"
            for stage in range(rank, ranks * chunks, ranks)
            for i in range(micro_batches)
        }
        assert set(ops) == expected
        assert len(ops) == len(expected)


@given(cases())
def test_backward_follows_forward_and_adds_in_the_order_of_the_micro_batches(case):
    """Because of this order all schedules agree to the bit, and tags need no micro-batch."""
    for ops in schedule(*case):
        place = {op: i for i, op in enumerate(ops)}
        for op in ops:
            if op.kind == "B":
                assert place[op] > place[Op("F", op.stage, op.micro)]
            if op.micro > 0:
                assert place[op] > place[op._replace(micro=op.micro - 1)]


@given(cases())
def test_never_deadlocks_under_synchronous_sends(case):
    run_synchronously(schedule(*case), wait_for_sends=False)
    if case[3] == 1:
        run_synchronously(schedule(*case), wait_for_sends=True)


def test_interleaved_does_deadlock_where_sends_block():
    """Hence the executor's sends do not wait; and the simulator does see a deadlock."""
    with pytest.raises(Deadlock):
        run_synchronously(schedule("interleaved", 2, 4, 2), wait_for_sends=True)


def test_an_impossible_order_is_found():
    backwards = [ops[::-1] for ops in schedule("gpipe", 2, 2)]
    with pytest.raises(Deadlock):
        times(backwards)
    with pytest.raises(Deadlock):
        run_synchronously(backwards, wait_for_sends=False)


@given(cases())
def test_peak_of_live_contexts_is_the_formula(case):
    name, ranks, m, v = case
    for rank, ops in enumerate(schedule(*case)):
        assert most_live(ops) == live_contexts(name, ranks, rank, m, v)


@given(cases(), st.integers(1, 3))
def test_bubble_is_the_formula(case, backward):
    """Backward takes 1 to 3 times as long as forward; interleaved, P divides m."""
    name, ranks, m, v = case
    if name == "interleaved":
        m *= ranks
    lines = times(schedule(name, ranks, m, v), 1, backward)
    length = max(end for line in lines for _, end, _ in line)
    idle = 1 - Fraction(v * m * (1 + backward), length)
    assert idle == idle_share(name, ranks, m, v)


@given(st.integers(1, 6), st.integers(1, 13), st.integers(1, 4))
def test_interleaved_with_a_broken_last_group_loses_less_than_one_group(ranks, m, v):
    lines = times(schedule("interleaved", ranks, m, v))
    length = max(end for line in lines for _, end, _ in line)
    full = -(-m // ranks) * ranks
    assert length <= 2 * (v * full + ranks - 1)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("2f2b", 2, 2), ValueError, "naive, gpipe, 1f1b, interleaved"),
        (("gpipe", 2, 0), ValueError, "micro_batches=0"),
        (("gpipe", 2, 2.0), TypeError, "micro_batches=2.0"),
        (("interleaved", 2, 2, 0), ValueError, "chunks=0"),
        (("1f1b", 2, 2, 2), ValueError, "only the interleaved schedule"),
    ],
)
def test_says_what_was_expected(arguments, error, message):
    with pytest.raises(error, match=message):
        schedule(*arguments)
