"""A race: everyone has the same batches, takes turns, and is compared the right way round."""

from contextlib import contextmanager

import numpy as np
import pytest

from bench.core import turns as races
from bench.core.interleave import ratio
from bench.core.measure import Cell, Check
from bench.core.turns import ROUNDS, Entrant, measurements, race

pytestmark = pytest.mark.workers(1)


def test_all_take_turns_on_the_same_batches_in_alternating_order(comm, monkeypatch):
    """With a clock that takes a step of every entrant for a hundredth of a second."""
    seen = []

    def timed(kind):
        def timed(comm, run, first, steps):
            run(first, steps)
            seen.append(kind)
            return steps / 100

        return timed

    @contextmanager
    def within():
        seen.append("in")
        yield
        seen.append("out")

    monkeypatch.setattr(races, "alone", timed("alone"))
    monkeypatch.setattr(races, "together", timed("together"))
    names = {"one": {"workers": 1}, "two": {"workers": 2}, "in": {"workers": 1, "within": within}}
    entrants = {
        name: Entrant(lambda batch, name=name: seen.append((name, batch)), **of)
        for name, of in names.items()
    }
    rounds, steps = race(entrants, "abc", comm)
    assert steps == 5  # of the shortest round that is measured, 50 ms
    assert rounds == {name: [0.05] * ROUNDS for name in names}

    one = [("one", batch) for batch in "abcab"]
    two = [("two", batch) for batch in "abcab"]
    last = [("in", batch) for batch in "abcab"]
    assert seen[11:31] == [*one, "alone", *two, "together", "in", *last, "alone", "out"]
    second = [entry[0] for entry in seen[31:] if isinstance(entry, tuple)][: 3 * steps]
    assert second == ["in"] * steps + ["two"] * steps + ["one"] * steps
    assert seen[32:37] == [("in", batch) for batch in "cabca"]  # they go on where they were


def test_faster_is_a_speedup_above_one():
    rounds = {"plain": [4.0, 8.0, 4.4], "fast": [2.0, 4.0, 2.2], "threads": [8.0, 16.0, 8.8]}
    entrants = {name: Entrant(print, workers=1 + (name == "fast")) for name in rounds}
    entrants["fast"] = Entrant(print, workers=2, check=Check(1e-7, note="so it is"))

    def cell(name, workers):
        return Cell(name, "net", workers, 64, 640)

    fast, threads = measurements(entrants, rounds, 10, cell, "plain", "threads")
    assert fast.cell == cell("fast", 2)
    assert (fast.speedup, fast.speedup_low, fast.speedup_high) == (2, 2, 2)
    assert (fast.efficiency, fast.samples_per_second) == (1, 10 * 64 / 2.2)
    assert (fast.rounds["sequential"], fast.rounds["parallel"]) == (rounds["plain"], rounds["fast"])
    assert (fast.check_error, fast.note) == (1e-7, "so it is")
    assert threads.speedup == fast.threads_speedup == 0.5


def test_a_ratio_is_of_rounds_in_pairs():
    """Half of the rounds were slow, for both; and one of them slower still, for one alone."""
    slow = np.array([1, 3, 1, 3, 1, 3, 1])
    assert ratio([2, 6, 2, 6, 2, 6, 20], slow) == 2
    assert ratio(slow, 2 * slow) == 0.5
