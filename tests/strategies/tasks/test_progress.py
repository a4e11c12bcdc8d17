"""The line that says how far a run is."""

import io
import re

import pytest

from strategies.tasks import progress, run_tasks
from strategies.tasks.progress import Progress
from tests.strategies.tasks.functions import draws, misbehaves

pytestmark = pytest.mark.workers(1)


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test sets."""

    class Clock:
        now = 100.0

    monkeypatch.setattr(progress, "monotonic", lambda: Clock.now)
    return Clock


def test_a_terminal_has_one_line_that_changes(clock):
    stream = Terminal()
    shown = Progress(True, stream)
    shown.show(0, 4, 0, 0)
    clock.now += 10
    shown.show(1, 4, 0, 0)
    clock.now += 0.1
    shown.show(2, 4, 0, 0)  # too soon
    clock.now += 10
    shown.show(3, 4, 1, 1)
    shown.show(4, 4, 1, 1, is_last=True)
    said = [line.strip() for line in stream.getvalue().split("\r")[1:]]
    assert said == [
        "0 of 4 tasks, 0 s",
        "1 of 4 tasks, 10 s, about 30 s left",
        "3 of 4 tasks, 1 from the journal, 1 failed, 20 s, about 10 s left",
        "4 of 4 tasks, 1 from the journal, 1 failed, 20 s",
    ]
    assert stream.getvalue().endswith("\n")
    # Nothing of a longer line stays.
    assert len(stream.getvalue().split("\r")[-1].rstrip("\n")) >= len(said[2])


def test_a_file_has_a_line_now_and_then(clock):
    stream = io.StringIO()
    shown = Progress(True, stream)
    shown.show(0, 3, 0, 0)
    clock.now += 31
    shown.show(1, 3, 0, 0)
    clock.now += 1
    shown.show(2, 3, 0, 0)
    shown.show(3, 3, 0, 0, is_last=True)
    assert stream.getvalue().splitlines() == [
        "1 of 3 tasks, 31 s, about 62 s left",
        "3 of 3 tasks, 32 s",
    ]


def test_a_short_run_says_nothing_in_a_file(capfd):
    run_tasks(abs, [1, -2])
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("shown", [True, False])
def test_a_run_says_how_far_it_is(tmp_path, monkeypatch, shown):
    stream = Terminal()
    monkeypatch.setattr(progress.sys, "stderr", stream)
    monkeypatch.setattr(progress, "EVERY", 0.0)
    tasks = [*draws(3), {"number": 3, "do": "raise"}]
    for _ in range(2):
        run_tasks(misbehaves, tasks, journal=tmp_path / "run.jsonl", progress=shown)
    if not shown:
        assert stream.getvalue() == ""
        return
    said = [re.sub(r", \d+ s.*", "", line).strip() for line in stream.getvalue().split("\r")[1:]]
    assert said[:4] == [*(f"{i} of 4 tasks" for i in (1, 2, 3)), "4 of 4 tasks, 1 failed"]
    assert said[-1] == "4 of 4 tasks, 3 from the journal, 1 failed"
