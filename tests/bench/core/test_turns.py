"""Contenders take turns: known clocks say in which order, how often, and with how many steps."""

import time
from functools import partial
from itertools import pairwise

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


def orders(clock, contenders, rounds):
    """The order of each round."""
    take_turns({name: clock.contender(name, 1.0) for name in contenders}, rounds, steps=1)
    names = "".join(name for name, _, _ in clock.turns)
    return [names[i : i + len(contenders)] for i in range(0, len(names), len(contenders))]


def test_every_second_round_has_the_order_of_the_one_before_it_in_reverse():
    found = orders(Clock(), "abcde", 12)
    assert {"".join(sorted(order)) for order in found} == {"abcde"}
    assert [order[::-1] for order in found[::2]] == found[1::2]
    assert len(set(found)) > 6


def test_the_order_is_the_same_on_every_rank():
    """Each draws it from the same seed."""
    assert orders(Clock(), "abcde", 8) == orders(Clock(), "abcde", 8)


def test_nobody_always_comes_after_the_same_neighbour():
    found = orders(Clock(), "abcde", 40)
    before = {name: set() for name in "abcde"}
    for order in found:
        for first, second in pairwise(order):
            before[second].add(first)
    assert {name: len(others) for name, others in before.items()} == dict.fromkeys("abcde", 4)


def test_all_have_the_same_steps():
    clock = Clock()
    contenders = {name: clock.contender(name, 1.0) for name in "abc"}
    rounds = take_turns(contenders, 3, steps=2)
    for i in range(3):
        assert sorted(clock.turns[3 * i : 3 * i + 3]) == [(name, 2 * i, 2) for name in "abc"]
    assert rounds == Rounds(2, {name: [2.0] * 3 for name in "abc"})
    assert rounds.per_step == {name: [1.0] * 3 for name in "abc"}


def test_something_is_done_before_each_round():
    clock = Clock()
    contenders = {name: clock.contender(name, 1.0) for name in "ab"}
    take_turns(contenders, 2, steps=1, before_round=lambda: clock.turns.append("look"))
    assert [turn == "look" for turn in clock.turns] == [True, False, False] * 2


def test_turns_of_one_round_are_pairs():
    """Round i is slow by a factor of i for both: the ratio is the same in each."""
    contenders = {
        "one": Contender(lambda first, steps: 1.0 * (first + 1)),
        "two": Contender(lambda first, steps: 2.0 * (first + 1)),
    }
    times = take_turns(contenders, 6, steps=1).seconds
    assert times["one"] == [1, 2, 3, 4, 5, 6]
    assert (np.array(times["two"]) / times["one"] == 2).all()


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
    """A round takes 2 seconds by the clock, and begins while at most `seconds` have passed.

    What the turns say they took, scaled to more steps, is not what passed.
    """
    clock = Clock()
    contenders = {name: clock.contender(name, 1000.0) for name in "ab"}
    times = take_turns(
        contenders, (5, 9), steps=1, seconds=seconds, clock=lambda: float(len(clock.turns))
    ).seconds
    assert (len(times["a"]), len(times["b"])) == (expected, expected)


def test_a_neighbour_that_slows_the_next_turn_leaves_ratios_alone():
    """Whoever comes after it takes half as long again, and both contenders do so now and then."""
    last = [""]

    def contender(name, seconds):
        def turn(first, steps):
            slowed = 1.5 if last[0] == "disturbs" else 1.0
            last[0] = name
            return steps * seconds * slowed

        return Contender(turn)

    lasts = {"one": 1.0, "two": 2.0, "disturbs": 1.0}
    contenders = {name: contender(name, seconds) for name, seconds in lasts.items()}
    times = take_turns(contenders, 15, steps=1).seconds
    assert np.median(times["two"]) / np.median(times["one"]) == 2.0
    assert ratio(times["two"], times["one"]) == 2.0


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


def test_somebody_must_set_the_pace():
    with pytest.raises(ValueError, match="no contender paces"):
        take_turns({"a": Contender(lambda first, steps: 1.0, paces=False)}, 3)


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
    assert [slept[-k * 2 * rounds.steps :].count("short") for k in (1, 2, 3)] == [
        k * rounds.steps for k in (1, 2, 3)
    ]
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
    rows = [line.split()[3:] for line in render(run, 120, False).splitlines() if "wide" in line]
    assert rows == [
        ["plain", "440.00", "1.00"],
        ["fast", "220.00", "2.00", "2.00-2.00"],
        ["slow", "880.00", "0.50", "0.50-0.50"],
    ]


def test_a_ratio_is_of_rounds_in_pairs():
    """Half of the rounds were slow, for both; and one of them slower still, for one alone."""
    slow = np.array([1, 3, 1, 3, 1, 3, 1])
    assert ratio([2, 6, 2, 6, 2, 6, 20], slow) == 2
    assert ratio(slow, 2 * slow) == 0.5
