"""What the fixtures of benchmarks do with a cell: it is measured and kept, or WRONG and neither."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from bench import conftest
from bench.conftest import (
    PROGRESS,
    RUN,
    hold,
    keep,
    measure_and_keep,
    promised,
    pytest_terminal_summary,
)
from bench.core import turns
from bench.core.cell import Cell, Measurement
from bench.report.kinds import Promise, WrongCell
from bench.report.replay import replay
from strategies.catalog import Entry, added
from strategies.records import RunFile, read
from tests.support.wrong_strategies import Lazy

pytestmark = pytest.mark.workers(1)


@pytest.fixture
def kept():
    """What a benchmark recorded: (result, said, seconds, extra)."""
    return []


@pytest.fixture
def speedup(comm, kept, monkeypatch):
    monkeypatch.setattr(turns, "SHORTEST_TURN", 0.002)

    def speedup(cell, **options):
        record = lambda *what: kept.append(what)  # noqa: E731
        return measure_and_keep("topic", comm, record, None, cell, seconds=0, **options)

    return speedup


def test_a_cell_is_kept_under_its_id_with_its_public_keys(speedup, kept):
    cell = Cell("DataParallel", "mlp", 1, 64, 1000)
    result = speedup(cell, steps=2)
    ((same, said, seconds, extra),) = kept
    assert same is result
    assert isinstance(result, Measurement)
    assert said == f"{result.speedup:.2f}x"
    assert seconds == result.rounds["parallel"]
    assert extra == {
        "id": "topic/DataParallel-mlp-1w-b64-n1000-cpu",
        **result.as_dict(),
        "background_load": np.mean(result.machine["background_load"]),
    }
    assert result.steps_per_round == 2


def test_a_wrong_cell_fails_its_test_and_is_kept_as_wrong_and_no_more(speedup, kept):
    """Without an id, times or a speedup, so that no baseline takes it for a cell."""
    cell = Cell("Wrong", "mlp", 1, 64, 1000)
    with added(Entry("Wrong", Lazy)), pytest.raises(BaseException, match="Wrong: after 3") as ended:
        speedup(cell)
    assert ended.type is pytest.fail.Exception  # a skip would be no failure, here neither
    ((result, said, seconds, extra),) = kept
    assert isinstance(result, WrongCell)
    assert (result.cell, said, seconds, extra) == (cell, "WRONG", [], {})
    assert result.error == pytest.approx(1, rel=0.01)
    assert result.as_dict()["kind"] == "wrong"


def test_a_cell_of_too_few_workers_is_skipped_and_not_measured(speedup, kept):
    with pytest.raises(pytest.skip.Exception, match="Hybrid-data-pipeline needs 4 workers"):
        speedup(Cell("Hybrid-data-pipeline", "mlp", 1, 64, 1000))
    assert kept == []


class Benchmark:
    """The fixture of pytest-benchmark, as far as it is used."""

    def __init__(self):
        self.extra_info, self.times = {}, []

    def pedantic(self, call, rounds, iterations):
        for _ in range(rounds):
            start = replay()
            for _ in range(iterations):
                call()
            self.times.append(replay() - start)


def test_a_result_is_on_disk_in_the_progress_and_with_pytest_benchmark(comm, tmp_path):
    module = SimpleNamespace(obj=SimpleNamespace(__doc__="Is it fast?\n\nMore."))
    stash = {RUN: RunFile(tmp_path / "run.jsonl", {}), PROGRESS: SimpleNamespace(said={})}
    node = SimpleNamespace(
        nodeid="bench/test_x.py::test[1]",
        config=SimpleNamespace(stash=stash),
        getparent=lambda kind: module,
    )
    benchmark = Benchmark()
    promise = Promise("a / b", 1.25, 1.5)
    keep(node, comm, benchmark, promise, "1.250", [0.25, 0.5], {"ratio": 1.25})
    (back,) = read(tmp_path / "run.jsonl").records
    assert back == promise
    assert back.other_keys == {
        "ratio": 1.25,
        "question": "Is it fast?",
        "nodeid": node.nodeid,
        "round_seconds": [0.25, 0.5],
    }
    assert stash[PROGRESS].said == {node.nodeid: "1.250"}
    assert (benchmark.extra_info, benchmark.times) == ({"ratio": 1.25}, [0.25, 0.5])
    keep(node, SimpleNamespace(rank=1), benchmark, promise)
    assert len(read(tmp_path / "run.jsonl").records) == 1
    assert json.loads((tmp_path / "run.jsonl").read_text().splitlines()[1])["kind"] == "promise"


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ({}, ["speed", "full", "promise"]),
        ({"quick": True}, ["speed", "promise"]),
        ({"cells": True}, ["speed", "full"]),
        ({"quick": True, "cells": True}, ["speed"]),
        ({"promises": True}, ["promise"]),
    ],
)
def test_a_quick_grid_and_the_gates_grid_leave_out_what_they_say(options, left):
    class Item:
        own_markers = ()

        def __init__(self, name, fixture, full=False, file="test_speedup"):
            self.name, self.fixturenames, self.full = name, [fixture], full
            self.nodeid = f"bench/{file}.py::{name}"
            self.path = conftest.HERE / f"{file}.py"

        def get_closest_marker(self, name):
            return name == "full" and self.full

        def add_marker(self, marker):
            self.own_markers = (*self.own_markers, marker.name)

        def getparent(self, kind):
            return SimpleNamespace(obj=SimpleNamespace(__doc__="Is it fast?"))

    items = [
        Item("promise", "promise", file="test_promises"),
        Item("speed", "speedup"),
        Item("full", "speedup", full=True),
    ]
    everything, dropped = list(items), []
    manager = SimpleNamespace(
        get_plugin=lambda name: SimpleNamespace(), register=lambda *plugin: None
    )
    config = SimpleNamespace(
        option=SimpleNamespace(**dict.fromkeys(("quick", "cells", "promises"), False) | options),
        pluginmanager=manager,
        hook=SimpleNamespace(pytest_deselected=lambda items: dropped.extend(items)),
        stash={},
    )
    conftest.pytest_collection_modifyitems(config, items)
    assert [item.name for item in items] == left
    assert {item.name for item in dropped} == {i.name for i in everything} - set(left)
    assert all({"alone", "deadline"} <= {*item.own_markers} for item in items)


@pytest.fixture
def record(kept):
    return lambda *what: kept.append(what)


@pytest.fixture
def lap(monkeypatch):
    """Of two cores, other programs keep one busy; `lap.ended` is how often that was asked."""
    monkeypatch.setattr("bench.core.background_load.available", lambda: 2)

    def lap():
        lap.ended += 1
        return 1.0

    lap.ended = 0
    return lap


@pytest.fixture
def promise(comm, record, lap):
    """The fixture of benchmarks, which holds at once what others hold in the end."""

    def promise(*arguments, **options):
        found = []
        promised(comm, record, lap, found, *arguments, **options)
        hold(found)

    return promise


def test_a_promise_is_recorded_with_its_rounds(promise, kept, lap):
    promise("a / b", 1.25, 1.5, [0.5, 0.75], steps_per_round=3)
    extra = {"ratio": 1.25, "limit": 1.5, "steps_per_round": 3}
    busy = "other programs kept 1.0 cores busy"
    assert kept == [(Promise("a / b", 1.25, 1.5, 0.0, busy), "1.250", [0.5, 0.75], extra)]
    assert lap.ended == 1


@pytest.mark.parametrize(
    ("seconds", "cores", "outcome"),
    [
        ([0.5], 2, pytest.skip.Exception),
        ([0.5], 1, pytest.fail.Exception),  # a core was free for it
        ([0.5], None, pytest.fail.Exception),  # by default one core for each rank, here one
        ([], 2, pytest.fail.Exception),  # no ratio of times: no load explains it
    ],
)
def test_a_promise_is_held_and_recorded_even_if_it_is_broken(
    promise, kept, lap, seconds, cores, outcome
):
    with pytest.raises(BaseException, match=r"a / b: 1\.600, promised is at most 1\.5") as ended:
        promise("a / b", 1.6, 1.5, seconds, cores)
    assert ended.type is outcome
    assert [(result.what, result.value, result.limit) for result, *_ in kept] == [
        ("a / b", 1.6, 1.5)
    ]
    assert lap.ended == len(seconds)


@pytest.mark.parametrize("devices", [None, ["cpu", "cuda"]])
def test_the_header_of_a_run_says_how_many_ranks_and_which_devices(tmp_path, monkeypatch, devices):
    monkeypatch.setattr(conftest, "header", lambda *about: {"about": list(about)})
    monkeypatch.setattr(conftest, "MPI", SimpleNamespace(COMM_WORLD=SimpleNamespace(size=7)))
    monkeypatch.setenv("LOCKSTEP_SESSION", "bench_mpi")
    option = SimpleNamespace(device=devices, benchmark_storage=f"file://{tmp_path}")
    for name, cells in (("own", ""), ("cells", str(tmp_path / "cells.jsonl"))):
        monkeypatch.setenv("LOCKSTEP_CELLS", cells)
        run = conftest._run_file(SimpleNamespace(option=option))
        assert run.path.parent == (tmp_path if cells else tmp_path / "lockstep"), name
        run.append(Promise("a / b", 1.0))
        assert read(run.path).header["about"] == ["bench_mpi", 7, devices or ["cpu"]]


@pytest.mark.parametrize("rank", [0, 1])
def test_the_tables_come_at_the_end_from_rank_0(tmp_path, monkeypatch, rank):
    monkeypatch.setattr(conftest, "MPI", SimpleNamespace(COMM_WORLD=SimpleNamespace(rank=rank)))
    run = RunFile(tmp_path / "run.jsonl", {})
    written = []
    terminal = SimpleNamespace(
        config=SimpleNamespace(stash={RUN: run}, option=SimpleNamespace(details=False)),
        hasmarkup=False,
        ensure_newline=lambda: None,
        section=lambda *what, **how: None,
        write=written.append,
        write_line=written.append,
    )
    pytest_terminal_summary(terminal)
    assert written == [], "nothing was measured"
    run.append(Promise("a / b", 1.25, 1.5))
    pytest_terminal_summary(terminal)
    assert ("a / b" in "".join(written)) is (rank == 0)
    assert (f"results, as measured: {run.path}" in written) is (rank == 0)
    said = any(f"nox -s report -- {run.path}" in line for line in written)
    assert said is (rank == 0)


def always(value):
    return lambda: value


def collected(names, **options):
    """Collect tests of the cells of these strategies; return what is left, and its marks."""
    items, marks = [], []
    for number, strategy in enumerate(names):
        cell = always(Cell(strategy, "mlp", 1, 64, 1000))
        items.append(
            SimpleNamespace(
                nodeid=f"{strategy}, test {number}",
                function=SimpleNamespace(cell=cell, case=None),
                fixturenames=["speedup"],
                path=conftest.HERE / "test_speedup.py",
                config=None,
                get_closest_marker=lambda mark: None,
                add_marker=marks.append,
                getparent=lambda kind: SimpleNamespace(obj=SimpleNamespace(__doc__="Is it fast?")),
            )
        )
    config = SimpleNamespace(
        option=SimpleNamespace(**dict.fromkeys(("quick", "cells", "promises"), False) | options),
        pluginmanager=SimpleNamespace(
            get_plugin=lambda name: SimpleNamespace(), register=lambda *plugin: None
        ),
        hook=SimpleNamespace(pytest_deselected=lambda items: None),
        stash={},
    )
    conftest.pytest_collection_modifyitems(config, items)
    return [item.nodeid for item in items], marks


def test_for_the_gate_a_cell_has_one_name():
    """It stands in two tables for people, and is one sample for the gate."""
    assert collected("AAB")[0] == ["A, test 0", "A, test 1", "B, test 2"]
    assert collected("AAB", cells=True)[0] == ["A, test 0", "B, test 2"]


def test_a_race_may_take_as_long_as_its_cells_would():
    _, marks = collected("ABC")
    deadlines = [mark.args for mark in marks if mark.name == "deadline"]
    assert deadlines == [(3 * conftest.DEADLINE,)] * 3
