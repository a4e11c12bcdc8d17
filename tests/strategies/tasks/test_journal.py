"""A journal keeps what has ended, and a run goes on with it, or refuses it and says why."""

import json
import os
import subprocess
import sys
import threading
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from strategies import records
from strategies.launchers import without_launcher
from strategies.tasks import current, journal, run_tasks
from tests.strategies.tasks import killed_run
from tests.strategies.tasks.functions import comparable, draw, draws, misbehaves, values
from tests.support.full_disk import full_disk

pytestmark = pytest.mark.workers(1)

ROOT = Path(__file__).parents[3]

run = partial(run_tasks, progress=False)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "new" / "run.jsonl"


def kept(path):
    return [line for line in lines(path) if line["kind"] == "task"]


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def counting():
    """A function of tasks, and the list of the tasks that it was called with."""
    called = []

    def function(task):
        called.append(task)
        return {"task": task, "drawn": current().rng.random(2)}

    return function, called


# Going on


def test_a_run_takes_up_what_has_ended_and_runs_the_rest(path):
    whole = run(draw, draws(6), journal=path)
    everything = path.read_text().splitlines(keepends=True)
    path.write_text("".join(everything[:4]))  # the header and three tasks
    heard = []
    resumed = run(draw, draws(6), journal=path, then=lambda outcome: heard.append(outcome) or ())
    assert values(resumed) == values(whole)
    assert [each.seconds for each in resumed[:3]] == [each.seconds for each in whole[:3]]
    assert [each.task for each in heard] == draws(6)
    assert len(kept(path)) == 6
    assert values(run(draw, draws(6), journal=path)) == values(whole)
    assert len(kept(path)) == 6


def test_a_task_is_in_the_journal_before_it_is_reported(path, pair):
    def then(outcome):
        assert outcome.task in [line["task"] for line in kept(path)]
        return ()

    for executor in (None, pair):
        run(draw, draws(4), executor, journal=path, then=then)
        path.unlink()


def test_a_line_is_on_the_disk_before_its_task_is_reported(path, monkeypatch):
    order = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (order.append("synced"), fsync(handle))[1])
    run(draw, draws(2), journal=path, then=lambda outcome: order.append("reported") or ())
    assert order[-2:] == ["synced", "reported"]
    assert order.count("reported") == 2


@pytest.mark.parametrize("executor", [None, "pair"])
def test_values_are_the_same_fresh_and_from_the_journal(request, path, executor):
    executor = request.getfixturevalue("pair") if executor else None
    value = {
        "array": np.arange(6.0).reshape(2, 3) / 7,
        "empty": np.zeros((0, 2), np.float32),
        "whole": np.arange(3),
        "number": np.float32(0.1),
        "count": np.int64(3),
        "right": np.bool_(True),
        "tuple": (1, (2.5, None)),
        "odd": [float("inf"), -float("inf")],
        "text": "ä $array",
        "inside": {"a": {"b": []}},
    }
    fresh, again = (run(lambda task: value, [1], executor, journal=path)[0] for _ in range(2))
    assert comparable(fresh.value) == comparable(again.value)
    assert comparable(fresh.value["array"]) == comparable(value["array"])
    assert fresh.value["empty"].shape == (0, 2)
    assert (fresh.value["number"], type(fresh.value["number"])) == (float(np.float32(0.1)), float)
    assert fresh.value["tuple"] == [1, [2.5, None]]
    assert fresh.value["odd"] == value["odd"]
    assert "NaN" not in path.read_text()
    assert "Infinity" not in path.read_text()


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (object(), "a journal does not keep a object"),
        ({1: 2}, "key 1: expected text"),
        ({"$array": 1}, "expected text that does not begin with \\$"),
        ([{1, 2}], "a journal does not keep a set"),
        (b"bytes", "a journal does not keep a bytes"),
        (np.array([None]), "a journal does not keep a ndarray"),
        (np.zeros(2, [("a", "i4")]), "a journal does not keep a ndarray"),
    ],
)
def test_a_value_that_is_not_json_is_an_error_of_its_task(path, value, says):
    outcomes = run(lambda task: value if task == 0 else task, [0, 1], journal=path)
    with pytest.raises(TypeError, match=says):
        raise TypeError(outcomes[0].error)
    assert outcomes[0].value is None
    assert outcomes[1].value == 1
    assert run(lambda task: value, [0])[0].value is value


def test_tasks_that_failed_run_again(path):
    tasks = [{"number": 0}, {"number": 1, "do": "raise"}, {"number": 2}]
    for _ in range(2):
        outcomes = run(misbehaves, tasks, journal=path)
        assert [each.error is None for each in outcomes] == [True, False, True]
    assert Counter(line["task"]["number"] for line in kept(path)) == {0: 1, 1: 2, 2: 1}
    assert "ValueError: no 1" in kept(path)[-1]["error"]


def test_then_decides_as_before_in_the_order_of_the_journal(path, pair):
    """The order in which tasks end is chance. A run that goes on has the order of the record."""

    def then(outcome):
        heard.append(outcome.task)
        return draws(1, after=len(heard)) if len(heard) <= 5 else ()

    tasks = [{"number": 100 + i, "sleeps": pause} for i, pause in enumerate((0.1, 0.05, 0.0, 0.02))]
    heard = []
    whole = run(draw, tasks, pair, journal=path, then=then)
    order, heard = heard, []
    assert order[:4] != tasks
    everything = path.read_text().splitlines(keepends=True)
    assert values(run(draw, tasks, journal=path, then=then)) == values(whole)
    assert heard == order
    path.write_text("".join(everything[:5]))
    heard = []
    resumed = run(draw, tasks, pair, journal=path, then=then)
    assert heard[:4] == order[:4]
    assert [each.task for each in resumed] == [each.task for each in whole]


def test_then_is_told_of_failures_as_before(path):
    """Otherwise a run that goes on decides otherwise; what failed last has decided nothing yet."""
    tasks = [{"number": 0}, {"number": 1, "do": "raise"}]

    def then(outcome):
        heard.append((outcome.task["number"], outcome.error))
        if outcome.task["number"] == 1:
            return [{"number": 2}, {"number": 3, "do": "raise"}]
        return ()

    for times in (1, 2):
        heard = []
        outcomes = run(misbehaves, tasks, journal=path, then=then)
        assert [each.task["number"] for each in outcomes] == [0, 1, 2, 3]
        assert [number for number, _ in heard] == [0, 1, 2, 3]
        assert ["ValueError" in (error or "") for _, error in heard] == [False, True, False, True]
        told = Counter(line["task"]["number"] for line in kept(path))
        assert told == {0: 1, 1: 1, 2: 1, 3: times}


def test_a_task_of_then_is_taken_up_though_what_caused_it_is_damaged(path):
    tasks = draws(2)

    def then(outcome):
        return draws(4)[2:] if outcome.task == tasks[1] else ()

    whole = run(draw, tasks, journal=path, then=then)
    text = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*text[:2], "#" + text[2], *text[3:]]))
    with pytest.warns(UserWarning, match="line 3 is damaged"):
        assert values(run(draw, tasks, journal=path, then=then)) == values(whole)
    assert Counter(json.loads(line)["task"]["number"] for line in path.read_text().splitlines()[1:]
                   if not line.startswith("#")) == {0: 1, 1: 1, 2: 1, 3: 1}  # fmt: skip


def test_a_checkpoint_is_kept_until_its_task_has_ended(path):
    def function(task):
        found = current().checkpoint.exists()
        current().checkpoint.write_text("half")
        if not found:
            raise RuntimeError("not yet")
        return found

    folder = path.with_name("run.jsonl.checkpoints")
    assert "not yet" in run(function, [1], journal=path)[0].error
    assert len(list(folder.iterdir())) == 1
    assert run(function, [1], journal=path)[0].value is True
    assert not folder.exists()


def test_checkpoints_of_a_journal_that_was_removed_are_not_gone_on_with(path):
    """They may be of other code or data: a refusal says to remove the journal alone."""

    def function(scale, task):
        found = current().checkpoint.exists()
        current().checkpoint.write_text("half")
        if task == 1 and not found:
            raise RuntimeError("not yet")
        return scale * task

    folder = path.with_name("run.jsonl.checkpoints")
    for scale in (2, 3):
        assert "not yet" in run(partial(function, scale), [1], journal=path)[0].error
        assert len([each for each in folder.rglob("*") if each.is_file()]) == 1
        path.unlink()
    path.touch()  # as a run leaves it that is killed before its first task has ended
    assert run(partial(function, 3), [1], journal=path)[0].value == 3
    assert not folder.exists()


def test_what_is_not_ours_stays_beside_the_checkpoints(path):
    """A user may keep files in a folder of that name, too."""
    folder = path.with_name("run.jsonl.checkpoints")
    for name in ("notes", "0123456789abcdefg"):
        (folder / name).mkdir(parents=True)
        (folder / name / "mine").touch()
    (folder / "mine").touch()
    (folder / "0123456789abcdef").mkdir()  # of another run, whose journal was removed
    run(abs, [-1], journal=path)
    left = sorted(str(each.relative_to(folder)) for each in folder.rglob("*") if each.is_file())
    assert left == ["0123456789abcdefg/mine", "mine", "notes/mine"]
    assert not (folder / "0123456789abcdef").exists()


@pytest.mark.deadline(120)
@pytest.mark.parametrize(("what", "times"), [("tasks", 50), ("kfold", 15), ("search", 15)])
def test_resumed_equals_uninterrupted_after_kills_at_random_moments(tmp_path, what, times):
    environment = without_launcher(os.environ) | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", killed_run.__name__, str(tmp_path), str(times), what],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    told = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
    assert sum(kills for kills, _ in told) >= times
    assert len({found for _, found in told}) > 4  # they came early and late
    for number, (kills, found) in enumerate(told) if what == "tasks" else ():
        begun = Counter((tmp_path / str(number) / "begun").read_text().split())
        assert len(begun) == killed_run.COUNT
        assert begun.total() <= killed_run.COUNT + kills  # each has one task begun again, at most
        assert len(kept(tmp_path / str(number) / "run.jsonl")) == killed_run.COUNT
        assert found <= killed_run.COUNT


# Damage


@pytest.mark.parametrize("cut", [1, 2, 30, "line"])
def test_a_journal_cut_off_loses_its_last_line_only(path, cut):
    function, called = counting()
    whole = run(function, draws(4), journal=path)
    text = path.read_bytes()
    last = len(text.splitlines(keepends=True)[-1])
    path.write_bytes(text[: -(last - 1 if cut == "line" else cut)])
    called.clear()
    assert values(run(function, draws(4), journal=path)) == values(whole)
    assert called == draws(4)[3:]
    assert path.read_bytes().count(b"\n") == 5
    assert not records.read(path).damaged


@pytest.mark.parametrize(
    ("line", "times"),
    [(4, 1), (2, 1)],
    ids=["last", "inner"],
)
@pytest.mark.parametrize("change", ["letters", "value", "zeros"])
def test_a_damaged_line_is_named_and_only_its_task_runs_again(path, line, times, change):
    function, called = counting()
    whole = run(function, draws(4), journal=path)
    text = path.read_bytes().splitlines(keepends=True)
    if change == "letters":
        text[line] = text[line][:20] + b"#?" + text[line][22:]
    elif change == "value":
        text[line] = text[line].replace(b'"$array": ["<f8"', b'"$array": ["?f8"')
    else:
        text[line] = b"\0" * (len(text[line]) - 1) + b"\n"
    path.write_bytes(b"".join(text))
    called.clear()
    with pytest.warns(UserWarning, match="damaged"):
        assert values(run(function, draws(4), journal=path)) == values(whole)
    assert called == [draws(4)[line - 1]] * times


def test_an_empty_file_is_a_new_journal(path):
    path.parent.mkdir()
    path.touch()
    assert len(run(draw, draws(2), journal=path)) == 2
    assert len(kept(path)) == 2


# Refusal


def other(task):
    return task


def of_scale(scale, task):
    return scale * task["number"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"tasks": draws(3)}, "it has 2 tasks, not 3"),
        (
            {"tasks": [draws(1)[0], {"number": 7}]},
            r"task 1 is \{'number': 1\} there and \{'number': 7\} here",
        ),
        ({"tasks": draws(2)[::-1]}, r"task 0 is \{'number': 0\} there and \{'number': 1\} here"),
        ({"seed": 1}, "seed is 0 there and 1 here"),
        ({"threads": 2}, "threads is 1 there and 2 here"),
        ({"function": other}, "the code is another: .*test_journal"),
        ({"data": np.arange(4)}, "the data is another: data"),
        ({"function": partial(of_scale, 3)}, "the data is another: argument 0"),
    ],
)
def test_a_journal_of_another_run_is_refused(path, change, says):
    given = {"function": partial(of_scale, 2), "tasks": draws(2), "data": np.arange(3)}
    run(**given, journal=path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=f"journal=.*run.jsonl is of another run: .*{says}"):
        run(**given | change, journal=path)
    assert path.read_bytes() == before
    assert len(run(**given, journal=path)) == 2  # the same data as another object


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"some text\n", "is no journal, or its first line is damaged"),
        (b'{"kind": "run", "machine": "desk"}\n', "it is not a journal of run_tasks"),
        (b'{"kind": "task"}\n', "is no journal"),
    ],
)
def test_a_file_that_is_no_journal_is_refused_and_left(path, content, says):
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(ValueError, match=says):
        run(draw, draws(1), journal=path)
    assert path.read_bytes() == content


def test_a_folder_or_a_device_is_refused(tmp_path):
    for place in (tmp_path, "/dev/null"):
        with pytest.raises(OSError, match="is no file: expected a file"):
            run(draw, draws(1), journal=place)


def test_two_runs_do_not_share_a_journal(path):
    begun, go_on = threading.Event(), threading.Event()

    def waits(task):
        begun.set()
        return go_on.wait(10)

    first = threading.Thread(target=lambda: run(waits, [1], journal=path))
    first.start()
    begun.wait(10)
    with pytest.raises(BlockingIOError, match="is in use by another run"):
        run(draw, draws(1), journal=path)
    go_on.set()
    first.join()
    assert len(kept(path)) == 1


def test_what_cannot_be_compared_is_refused_before_anything_runs(path):
    with pytest.raises(TypeError, match="argument 0: a journal cannot tell a lock from another"):
        run(partial(of_scale, threading.Lock()), draws(1), journal=path)
    assert not path.exists()


def test_a_full_disk_ends_the_run_and_names_the_file(path):
    with full_disk(100), pytest.raises(OSError, match=r"run\.jsonl"):
        run(draw, draws(1), journal=path)


def test_the_header_says_what_it_is_a_journal_of(path):
    run(draw, draws(2), journal=path, seed=3)
    header = lines(path)[0]
    assert header["tasks"] == draws(2)
    assert (header["seed"], header["threads"]) == (3, 1)
    assert set(header["code"]) >= {draw.__module__, current.__module__}
    assert journal.Task.kind == "task"
