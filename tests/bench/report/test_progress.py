"""The line of each benchmark says how it ended, and how long the rest will take."""

from types import MappingProxyType, SimpleNamespace

import pytest

from bench.report import progress as module
from bench.report.progress import Progress

pytestmark = pytest.mark.workers(1)


@pytest.fixture
def progress():
    written = []
    terminal = SimpleNamespace(
        ensure_newline=lambda: None,
        write=lambda text, **colours: written.append((text.strip(), colours)),
        write_line=lambda text: written.append((text.strip(), {})),
    )
    made = Progress(terminal)
    made.plan([SimpleNamespace(nodeid=f"bench/test_a.py::test[{i}]") for i in range(3)])
    return made, written


@pytest.mark.parametrize(
    ("outcome", "said", "colour"),
    [("passed", "1.50x", "green"), ("failed", "failed", "red"), ("skipped", "skipped", "yellow")],
)
def test_the_line_of_a_benchmark_says_how_it_ended(progress, outcome, said, colour):
    """What it has measured is its result only if it passed."""
    made, written = progress
    node = "bench/test_a.py::test[0]"
    made.said[node] = "1.50x"
    report = SimpleNamespace(nodeid=node, when="call", outcome=outcome)
    for each in ("passed", "failed", "skipped"):
        setattr(report, each, each == outcome)
    made.pytest_runtest_logstart(node)
    made.pytest_runtest_logreport(report)
    (count, _), (result, colours), (rest, _) = written
    assert count == "1/3"
    assert (result, [name for name, on in colours.items() if on]) == (said, [colour])
    assert rest.startswith("test_a.py::test[0]")
    made.pytest_runtest_logreport(report)
    assert len(written) == 3, "a line for each benchmark, and no more"


@pytest.fixture
def told(monkeypatch):
    """Make a function that has benchmarks end, and returns the words of each line."""
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock.now))

    def told(ids, ends, races=MappingProxyType({})):
        said = []
        terminal = SimpleNamespace(
            ensure_newline=lambda: None, write=lambda *what, **how: None, write_line=said.append
        )
        made = Progress(terminal)
        made.plan([SimpleNamespace(nodeid=each) for each in ids], races)
        for node, seconds, when, outcome in ends:
            made.pytest_runtest_logstart(node)
            clock.now += seconds
            kinds = {kind: kind == outcome for kind in ("passed", "failed", "skipped")}
            report = SimpleNamespace(nodeid=node, when=when, outcome=outcome, **kinds)
            made.pytest_runtest_logreport(report)
        return [text.split() for text in said]

    return told


def left(lines):
    """The time left, where a line has it."""
    return [line[-2] if line[-1] == "left" else "" for line in lines]


def test_what_is_left_takes_as_long_as_others_of_its_test_did(told):
    """Two of `quick` took 2 and 4 s, and one of `slow` 60 s; nothing is known of `new`."""
    lines = told(
        ["quick[0]", "slow[0]", "quick[1]", "new[0]", "quick[2]", "slow[1]"],
        [
            ("quick[0]", 2, "call", "passed"),
            ("slow[0]", 60, "call", "passed"),
            ("quick[1]", 4, "setup", "skipped"),  # there is no call, and it is over
            ("new[0]", 34, "call", "failed"),
            ("quick[2]", 3, "call", "passed"),
            ("slow[1]", 1, "call", "passed"),
        ],
    )
    assert left(lines) == ["0:10", "1:35", "1:25", "1:03", "1:00", ""]


def test_a_race_takes_as_long_as_its_cells(told):
    """The first test of a race of four runs it in 8 s; one of two follows, and a plain test."""
    ids = ["a[0]", "a[1]", "b[0]", "a[2]", "a[3]", "b[1]"]
    ends = [("a[0]", 8.0), ("a[1]", 0.0), ("b[0]", 6.0), ("a[2]", 0.0)]
    races = {each: "one" if each.startswith("a") else "two" for each in ids}
    lines = told([*ids, "plain"], [(*each, "call", "passed") for each in ends], races)
    assert lines[0] == ["a", "race", "4", "cells", "take", "turns"]
    assert lines[3] == ["a", "race", "2", "cells", "take", "turns"]
    # 2 s a cell: the race of two and the plain test; then 2.5 s, the plain test alone
    assert left(lines) == ["", "0:06", "0:06", "", "0:02", "0:02"]
