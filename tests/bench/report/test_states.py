"""States of the machine: what is said under a table, and the figures of both."""

from dataclasses import replace

import pytest

from bench.report.states import state_lines, threads
from tests.bench.report.test_kinds import MEASUREMENT

pytestmark = pytest.mark.workers(1)


def raced(far, name="DataParallel", load=0.0, **changes):
    """A cell whose parallel arm is twice as fast with a common cache, and half as fast without."""
    rounds = {
        "sequential": [1.0 + 0.1 * i for i in range(len(far))],
        "parallel": [(1.0 + 0.1 * i) * (2.0 if each else 0.5) for i, each in enumerate(far)],
    }
    machine = {
        "handover_ns": [9.0 if each else 1.0 for each in far],
        "own_line_ns": [1.0] * len(far),
        "background_load": [load] * len(far),
    }
    cell = replace(MEASUREMENT.cell, strategy=name)
    return replace(MEASUREMENT, **({"cell": cell, "rounds": rounds, "machine": machine} | changes))


def test_a_machine_that_stays_as_it_should_be_needs_no_words():
    assert state_lines([raced([False] * 6)]) == []
    assert state_lines([replace(MEASUREMENT, machine={})]) == []


def test_the_figures_of_both_states_are_given_where_they_have_enough_rounds():
    far = [True, False, True, False, True, False, False]
    lines = state_lines([raced(far), raced(far, "Other"), raced(far, oversubscribed=True)])
    assert lines == [
        "batch 64, 1,000 rows: the first two cores shared no cache in 3 of 7 rounds",
        "speedup without / with a common cache: DataParallel 2 0.50/2.00, Other 2 0.50/2.00",
    ]
    few = [True, True, False, False, False]
    assert state_lines([raced(few)]) == [
        "batch 64, 1,000 rows: the first two cores shared no cache in 2 of 5 rounds"
    ]


def test_each_race_has_its_own_line():
    busy, quiet = raced([False] * 5, load=0.5), raced([True] * 5)
    assert state_lines([busy, quiet, busy]) == [
        "batch 64, 1,000 rows: other programs kept 0.5 cores busy",
        "batch 64, 1,000 rows: the first two cores shared no cache in 5 of 5 rounds",
    ]


@pytest.mark.parametrize(
    ("speedups", "shown"),
    [
        ([1.6, 1.6, 0.9, 0.9, 1.61, 0.91], "0.90|1.60"),
        ([1.6, 1.6, 0.9, 1.61, 1.59, 1.62], "1.10"),  # one slow turn is no kind
        ([1.0, 1.1, 1.2, 1.3, 1.4, 1.5], "1.10"),  # as wide, and without a gap
        ([1.6, 1.6, 0.9, 0.9], "1.10"),  # too few
    ],
)
def test_threads_of_two_kinds_are_both_shown(speedups, shown):
    plain = [2.0 + i for i in range(len(speedups))]
    rounds = {"sequential": plain, "threads": [p / s for p, s in zip(plain, speedups)]}
    assert threads(replace(MEASUREMENT, rounds=rounds, threads_speedup=1.1)) == shown


def test_older_records_have_fewer_turns_of_threads():
    rounds = {"sequential": [2.0] * 9, "threads": [1.0, 2.0, 1.0]}
    assert threads(replace(MEASUREMENT, rounds=rounds, threads_speedup=1.1)) == "1.10"
