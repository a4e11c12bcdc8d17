"""Contenders take turns: known clocks say in which order, how often, and with how many steps."""

import time
from functools import partial

import numpy as np
import pytest

from bench.core.arms import calls_in_turn, clocked, training
from bench.core.cell import Cell, measurements
from bench.core.check import Check
from bench.core.turns import SHORTEST_TURN, Contender, Rounds, ratio, take_turns
from bench.report.kinds import Race
from bench.report.table import render
from strategies.records import RunFile, read

pytestmark = pytest.mark.workers(1)


class Clock:
    """Contenders whose steps last as long as is said of them, and every turn that they took."""

    def __init__(self):
        self.turns = []

    def contender(self, name, seconds_a_step, **options):
        def turn(first, steps):
            self.turns.append((name, first, steps))
            return steps * seconds_a_step

        return Contender(turn, **options)


def test_the_order_alternates_and_all_have_the_same_steps():
    clock = Clock()
    contenders = {name: clock.contender(name, 1.0) for name in "abc"}
    rounds = take_turns(contenders, 3, steps=2)
    assert clock.turns == [
        *(("a", 0, 2), ("b", 0, 2), ("c", 0, 2)),
        *(("c", 2, 2), ("b", 2, 2), ("a", 2, 2)),
        *(("a", 4, 2), ("b", 4, 2), ("c", 4, 2)),
    ]
    assert rounds == Rounds(2, {name: [2.0] * 3 for name in "abc"})
    assert rounds.per_step == {name: [1.0] * 3 for name in "abc"}


def test_turns_of_one_round_are_pairs():
    """Round i is slow by a factor of i for both: the ratio is the same in each."""
    contenders = {
        "one": Contender(lambda first, steps: 1.0 * (first + 1)),
        "two": Contender(lambda first, steps: 2.0 * (first + 1)),
    }
    times = take_turns(contenders, 6, steps=1).seconds
    assert times["one"] == [1, 2, 3, 4, 5, 6]
    assert (np.array(times["two"]) / times["one"] == 2).all()


def test_a_contender_of_every_nth_round_comes_last_in_it():
    clock = Clock()
    contenders = {
        "rare": clock.contender("rare", 9.0, every=3),
        "a": clock.contender("a", 1.0),
        "b": clock.contender("b", 1.0),
    }
    rounds = take_turns(contenders, 5, steps=1)
    names = [name for name, _, _ in clock.turns]
    assert " ".join(names) == "a b rare b a a b b a rare a b"
    assert [first for name, first, _ in clock.turns if name == "rare"] == [0, 3]
    assert len(rounds.seconds["rare"]) == 2


@pytest.mark.parametrize("seconds", [1e-6, 0.003, 0.04, 0.2])
def test_the_shortest_turn_lasts_long_enough(seconds):
    """Contenders that do not set the pace may be shorter, and no other may."""
    clock = Clock()
    contenders = {
        "slow": clock.contender("slow", 7 * seconds),
        "fast": clock.contender("fast", seconds),
        "faster": clock.contender("faster", seconds / 10, paces=False),
    }
    steps = take_turns(contenders).steps
    assert SHORTEST_TURN * (1 - 1e-9) <= steps * seconds < SHORTEST_TURN + seconds * (1 + 1e-9)
    again = take_turns(contenders, shortest=1.0).steps
    assert 1.0 * (1 - 1e-9) <= again * seconds < 1.0 + seconds * (1 + 1e-9)


@pytest.mark.parametrize(
    ("seconds", "expected"), [(0.0, 5), (8.9, 5), (10.0, 6), (15.9, 8), (99, 9)]
)
def test_rounds_end_when_the_time_is_used_up(seconds, expected):
    """Two contenders of a second each: a round begins while at most `seconds` have passed."""
    clock = Clock()
    contenders = {name: clock.contender(name, 1.0) for name in "ab"}
    times = take_turns(contenders, (5, 9), steps=1, seconds=seconds).seconds
    assert (len(times["a"]), len(times["b"])) == (expected, expected)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"steps": 0}, "steps=0: expected 1 or more"),
        ({"rounds": 0}, "rounds=0: expected 1 <= fewest <= most"),
        ({"rounds": (5, 3)}, "expected 1 <= fewest <= most"),
        ({"rounds": (0, 3)}, "expected 1 <= fewest <= most"),
    ],
)
def test_nothing_to_time_is_an_error(wrong, said):
    with pytest.raises(ValueError, match=said):
        take_turns({"a": Contender(lambda first, steps: 1.0)}, **({"rounds": 3} | wrong))


def test_somebody_must_set_the_pace_and_everybody_take_part():
    with pytest.raises(ValueError, match="no contender paces"):
        take_turns({"a": Contender(lambda first, steps: 1.0, paces=False)}, 3)
    with pytest.raises(ValueError, match="a: every=-3, expected 1 or more"):
        take_turns({"a": Contender(lambda first, steps: 1.0, every=-3)}, 3)


def test_sleeps_of_known_length_are_told_apart():
    """Steps that sleep for 4 and for 8 ms, each called once before it is timed."""
    slept = []

    def sleep(name, seconds):
        slept.append(name)
        time.sleep(seconds)

    calls = {"short": partial(sleep, "short", 0.004), "long": partial(sleep, "long", 0.008)}
    contenders = {name: Contender(clocked(call)) for name, call in calls.items()}
    assert slept == ["short", "long"]
    rounds = take_turns(contenders, 3, shortest=0.02)
    assert rounds.steps in (4, 5)
    a_round = ["short"] * rounds.steps + ["long"] * rounds.steps
    assert slept[-3 * len(a_round) :] == [*a_round, *a_round[::-1], *a_round]
    times = rounds.per_step
    assert min(times["short"]) >= 0.004
    assert min(times["long"]) >= 0.008
    assert 1.3 < ratio(times["long"], times["short"]) < 2.5
    assert calls_in_turn(calls, rounds=1).keys() == calls.keys()


def test_training_goes_on_where_it_was():
    seen = []
    run = training(seen.append, "abc")
    run(0, 5)
    run(5, 5)
    assert seen == list("abcab" + "cabca")


def test_faster_is_a_speedup_above_one():
    rounds = Rounds(
        10, {"plain": [4.0, 8.0, 4.4], "fast": [2.0, 4.0, 2.2], "threads": [8.0, 16.0, 8.8]}
    )
    cells = {
        name: (Cell(name, "net", 1 + (name == "fast"), 64, 640), Check(1e-7, note="so it is"))
        for name in ("fast", "threads")
    }
    fast, threads = measurements(cells, rounds, "plain", "threads")
    assert fast.cell == cells["fast"][0]
    assert (fast.speedup, fast.speedup_low, fast.speedup_high) == (2, 2, 2)
    assert (fast.efficiency, fast.samples_per_second) == (1, 10 * 64 / 2.2)
    times = rounds.seconds
    assert (fast.rounds["sequential"], fast.rounds["parallel"]) == (times["plain"], times["fast"])
    assert (fast.check_error, fast.note) == (1e-7, "so it is")
    assert threads.speedup == fast.threads_speedup == 0.5


def test_a_race_is_read_back_and_shown(tmp_path):
    rounds = {"plain": [4.0, 8.0, 4.4], "fast": [2.0, 4.0, 2.2], "slow": [8.0, 16.0, 8.8]}
    race = Race("wide", 2, 64, 10, rounds, 0.1)
    RunFile(tmp_path / "run.jsonl", {}).append(race)
    run = read(tmp_path / "run.jsonl")
    assert run.records == [race]
    assert race.over("plain") == {"fast": 2.0, "slow": 0.5}
    rows = [line.split()[-3:] for line in render(run, 120, False).splitlines() if "wide" in line]
    assert rows == [
        ["plain", "440.00", "1.00"],
        ["fast", "220.00", "2.00"],
        ["slow", "880.00", "0.50"],
    ]


def test_a_ratio_is_of_rounds_in_pairs():
    """Half of the rounds were slow, for both; and one of them slower still, for one alone."""
    slow = np.array([1, 3, 1, 3, 1, 3, 1])
    assert ratio([2, 6, 2, 6, 2, 6, 20], slow) == 2
    assert ratio(slow, 2 * slow) == 0.5
