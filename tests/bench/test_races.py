"""Races of a run: which tests share one, and that each test finds its own cell in it."""

import inspect
from functools import partial
from types import SimpleNamespace

import pytest

from bench import races
from bench.conftest import measure_and_keep
from bench.core import grid
from bench.core.cell import Cell
from bench.core.check import Check, WrongTraining
from bench.marks import cell_test, planned
from bench.races import PlannedRace, plan
from bench.report.kinds import WrongCell
from strategies import Refused
from tests.bench.report.test_kinds import MEASUREMENT


@cell_test
def mlp(strategy, workers, batch_size):
    return Cell(strategy, "mlp", workers, batch_size, 10_000)


def other_case(cell, **arguments):
    return cell, arguments


@planned(lambda workers, pytestconfig: Cell("Mine", pytestconfig, workers, 64, 100), other_case)
def mine(speedup):
    pass


def item(function, skipped=False, **parameters):
    nodeid = f"{function.__name__}[{'-'.join(map(str, parameters.values()))}]"
    return SimpleNamespace(
        nodeid=nodeid,
        function=function,
        callspec=SimpleNamespace(params=parameters),
        config="net",
        get_closest_marker=lambda name: skipped and name == "skip",
    )


@pytest.mark.workers(1)
def test_cells_of_one_net_batch_data_and_device_are_one_race():
    items = [
        item(mlp, strategy="A", workers=1, batch_size=64),
        item(mlp, strategy="B", workers=2, batch_size=64),
        item(mlp, strategy="A", workers=1, batch_size=256),
        item(mine, workers=2),
        SimpleNamespace(nodeid="no cell", function=len),
    ]
    found = plan(items, ranks=4)
    a, b, large, own = (found[each.nodeid] for each in items[:4])
    assert a is b
    assert len({id(each) for each in (a, large, own)}) == 3
    assert [(cell.strategy, cell.workers) for cell in a.cases] == [("A", 1), ("B", 2)]
    assert (a.workers, large.workers) == (2, 1)
    assert list(a.tests.values()) == [items[0].nodeid, items[1].nodeid]
    assert "no cell" not in found
    (make,) = own.cases.values()
    cell = Cell("Mine", "net", 2, 64, 100)
    assert make() == (cell, {"workers": 2, "pytestconfig": "net"})
    assert all(each.func is grid.case for each in a.cases.values())


@pytest.mark.workers(1)
def test_what_is_skipped_or_has_too_few_ranks_takes_no_part():
    skipped = item(mlp, skipped=True, strategy="A", workers=1, batch_size=64)
    large = item(mlp, strategy="A", workers=4, batch_size=64)
    small = item(mlp, strategy="A", workers=2, batch_size=64)
    assert list(plan([skipped, large, small], ranks=3)) == [small.nodeid]
    assert list(plan([skipped, large, small], ranks=4)) == [large.nodeid, small.nodeid]


@pytest.mark.workers(1)
def test_a_cell_of_two_tests_is_raced_once():
    again = item(mlp, strategy="A", workers=1, batch_size=64)
    again.nodeid = "another topic"
    first = item(mlp, strategy="A", workers=1, batch_size=64)
    found = plan([first, again], ranks=1)
    assert len(found["another topic"].cases) == 1
    assert list(found["another topic"].tests.values()) == [first.nodeid]


@pytest.mark.workers(1)
def test_what_a_cell_cannot_ask_for_is_said():
    with pytest.raises(pytest.UsageError, match=r"mlp\[2\]: .* asks for strategy, batch_size, exp"):
        plan([item(mlp, workers=2)], ranks=2)
    plain = SimpleNamespace(**(vars(item(mine)) | {"function": cell_test(lambda: CELLS[0])}))
    del plain.callspec
    assert list(plan([plain], ranks=1)[plain.nodeid].cases) == [CELLS[0]]


@pytest.mark.workers(1)
def test_a_test_of_a_cell_has_the_parameters_of_its_function_and_measures_its_cell():
    measured = []
    mlp(measured.append, strategy="A", workers=2, batch_size=64)
    assert measured == [Cell("A", "mlp", 2, 64, 10_000)]
    assert list(inspect.signature(mlp).parameters) == [
        *("speedup", "strategy", "workers", "batch_size"),
    ]


class Recorded:
    """A `race` that notes what it is called with, and measures nothing."""

    def __init__(self, outcomes=None):
        self.calls, self.outcomes = [], outcomes or {}

    def __call__(self, cases, comm):
        self.calls.append(cases)
        return [self.outcomes.get(cell, f"measured {cell}") for cell in cases]


CELLS = [Cell(name, "mlp", workers, 64, 1000) for name in "AB" for workers in (1, 2)]


def make_race(monkeypatch, outcomes=None, broken=()):
    recorded = Recorded(outcomes)
    monkeypatch.setattr(races, "race", recorded)

    def case(cell):
        if cell in broken:
            raise OSError(f"no data for {cell.strategy}")
        return cell

    return PlannedRace({cell: partial(case, cell) for cell in CELLS}), recorded


@pytest.mark.workers(2)
def test_the_first_test_runs_the_race_and_the_others_find_it_done(comm, monkeypatch):
    race, recorded = make_race(monkeypatch)
    for cell in (CELLS[2], CELLS[0], CELLS[1]):
        assert race.measurement(cell, comm) == f"measured {cell}"
    assert recorded.calls == [CELLS]


@pytest.mark.workers(2)
def test_a_race_that_one_rank_has_not_seen_the_end_of_is_run_again_by_all(comm, monkeypatch):
    race, recorded = make_race(monkeypatch)
    race.measurement(CELLS[0], comm)
    if comm.rank == 1:
        race.outcomes.clear()
    race.measurement(CELLS[0], comm)
    assert len(recorded.calls) == 2


@pytest.mark.workers(1)
def test_after_the_loss_of_a_rank_the_cells_that_still_can_are_raced(comm, monkeypatch):
    race, recorded = make_race(monkeypatch)
    assert race.measurement(CELLS[0], comm) == f"measured {CELLS[0]}"
    assert recorded.calls == [[CELLS[0], CELLS[2]]]
    with pytest.raises(Refused, match="2 workers, and 1 ranks are left"):
        race.measurement(CELLS[1], comm)


@pytest.mark.workers(2)
def test_a_case_that_one_rank_cannot_make_is_raced_by_none(comm, monkeypatch):
    broken = [CELLS[1]] if comm.rank == 1 else []
    race, recorded = make_race(monkeypatch, broken=broken)
    with pytest.raises(OSError, match="no data for A"):
        race.measurement(CELLS[1], comm)
    assert recorded.calls == [[CELLS[0], *CELLS[2:]]]


@pytest.mark.workers(2)
def test_only_the_test_of_the_cell_fails(comm, monkeypatch):
    wrong = WrongTraining(CELLS[1], Check(0.5, "the weights differ"))
    race, recorded = make_race(monkeypatch, {CELLS[1]: wrong}, broken=[CELLS[3]])
    kept = []
    keep = partial(measure_and_keep, "topic", comm, lambda *what: kept.append(what), race)
    monkeypatch.setattr(
        "bench.conftest.CATALOG", {n: SimpleNamespace(fewest_ranks=1) for n in "AB"}
    )
    with pytest.raises(pytest.fail.Exception, match="A: the weights differ"):
        keep(CELLS[1])
    assert isinstance(kept.pop()[0], WrongCell)
    with pytest.raises(OSError, match="no data for B"):
        keep(CELLS[3])
    race.outcomes[CELLS[0]] = MEASUREMENT
    assert keep(CELLS[0]) is MEASUREMENT
    assert [each[0] for each in kept] == [MEASUREMENT]
    assert recorded.calls == [CELLS[:3]]


@pytest.mark.workers(1)
def test_a_race_without_cells_that_can_is_no_race(comm, monkeypatch):
    race, recorded = make_race(monkeypatch, broken=CELLS)
    with pytest.raises(OSError, match="no data for A"):
        race.measurement(CELLS[0], comm)
    assert recorded.calls == [[]]
