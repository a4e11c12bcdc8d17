"""The line of each benchmark says how it ended, and how long the rest will take."""

from types import SimpleNamespace

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


def test_what_is_left_takes_as_long_as_others_of_its_test_did(monkeypatch):
    """Two of `quick` took 2 and 4 s, and one of `slow` 60 s; nothing is known of `new`."""
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock.now))
    said = []
    terminal = SimpleNamespace(
        ensure_newline=lambda: None, write=lambda *what, **how: None, write_line=said.append
    )
    made = Progress(terminal)
    ids = ["quick[0]", "slow[0]", "quick[1]", "new[0]", "quick[2]", "slow[1]"]
    made.plan([SimpleNamespace(nodeid=f"bench/test_a.py::{each}") for each in ids])
    for each, seconds, when, outcome in (
        ("quick[0]", 2, "call", "passed"),
        ("slow[0]", 60, "call", "passed"),
        ("quick[1]", 4, "setup", "skipped"),  # there is no call, and it is over
        ("new[0]", 34, "call", "failed"),
        ("quick[2]", 3, "call", "passed"),
        ("slow[1]", 1, "call", "passed"),
    ):
        node = f"bench/test_a.py::{each}"
        made.pytest_runtest_logstart(node)
        clock.now += seconds
        kinds = {kind: kind == outcome for kind in ("passed", "failed", "skipped")}
        report = SimpleNamespace(nodeid=node, when=when, outcome=outcome, **kinds)
        made.pytest_runtest_logreport(report)
    left = [text.split()[-2] if text.endswith(" left") else "" for text in said]
    assert left == ["0:10", "1:35", "1:25", "1:03", "1:00", ""]


def test_a_race_takes_as_long_as_its_cells(monkeypatch):
    """The first test of a race of four runs it in 8 s; one of two follows, and a plain test."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock.now))
    said = []
    terminal = SimpleNamespace(
        ensure_newline=lambda: None, write=lambda *what, **how: None, write_line=said.append
    )
    made = Progress(terminal)
    ids = ["a[0]", "a[1]", "b[0]", "a[2]", "a[3]", "b[1]"]
    races = {each: "one" if each.startswith("a") else "two" for each in ids}
    made.plan([SimpleNamespace(nodeid=each) for each in [*ids, "plain"]], races)
    for each, seconds in (("a[0]", 8.0), ("a[1]", 0.0), ("b[0]", 6.0), ("a[2]", 0.0)):
        made.pytest_runtest_logstart(each)
        clock.now += seconds
        report = SimpleNamespace(
            nodeid=each, when="call", outcome="passed", passed=True, failed=False, skipped=False
        )
        made.pytest_runtest_logreport(report)
    told = [text.split() for text in said]
    assert told[0] == ["a", "race", "4", "cells", "take", "turns"]
    assert told[3] == ["a", "race", "2", "cells", "take", "turns"]
    # 2 s a cell: the race of two and the plain test; then 2.5 s, the plain test alone
    assert [line[-2] for line in told if line[-1] == "left"] == ["0:06", "0:06", "0:02", "0:02"]
