"""Which launches are made: grids take turns, and only disturbed cells are launched again."""

import pytest

from bench.gate.collect import Grid, collect
from bench.gate.launches import Launch

pytestmark = pytest.mark.workers(1)


class Simulated(Grid):
    """A grid of two cells of two workers; its cell "b" bears each of some background loads."""

    def __init__(self, label, loads, workers=2):
        super().__init__(2, label=label)
        self.loads, self.workers, self.asked = iter(loads), workers, []

    def launch(self, only=None):
        self.asked.append(only)
        loads = {"a": 0.0, "b": next(self.loads)}
        cells = {
            cell: {"background_load": load, "workers": self.workers}
            for cell, load in loads.items()
            if only is None or cell in only
        }
        return Launch(cells)


@pytest.fixture(autouse=True)
def two_cores(monkeypatch):
    monkeypatch.setattr("bench.core.background_load.available", lambda: 2)
    monkeypatch.setattr("bench.gate.collect.undisturbed_launches", undisturbed)


def undisturbed(launches):
    """Name the launches of each cell that count; round times do not matter here."""
    cells = dict.fromkeys(cell for launch in launches for cell in launch.cells)
    return {
        cell: [n for n, x in enumerate(launches) if cell in x.cells and cell not in x.disturbed()]
        for cell in cells
    }


@pytest.mark.parametrize(
    ("loads", "again"),
    [
        ([0.0, 0.0, 0.0], []),
        ([0.0, 0.5, 0.0, 0.0], [["b"]]),
        ([0.5, 0.5, 0.0, 0.0, 0.5, 0.0], [["b"]] * 3),
        ([0.5] * 6, [["b"]] * 3),
    ],
)
def test_only_disturbed_cells_are_launched_again_and_no_more_often_than_needed(loads, again):
    grid = Simulated("one", loads)
    (launches,) = collect([grid], 3)
    assert grid.asked == [None, None, None, *again]
    assert len(launches) == len(loads)


def test_a_load_on_a_core_that_a_cell_leaves_free_disturbs_nothing():
    grid = Simulated("one", [0.5] * 3, workers=1)
    collect([grid], 3)
    assert grid.asked == [None, None, None]


def test_both_grids_are_launched_again_for_what_was_disturbed_in_one():
    """Then the launches of both alternate, and a drift of the machine affects both."""
    order = []
    one, two = Simulated("one", [0.5, 0, 0, 0]), Simulated("two", [0.0] * 4)
    collect([one, two], 3, keep=lambda grid, launch: order.append(grid.label))
    assert order == ["one", "two", "two", "one", "one", "two", "two", "one"]
    assert one.asked == two.asked == [None, None, None, ["b"]]
