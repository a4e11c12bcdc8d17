"""The figures of the tables, from results whose figures are known."""

from dataclasses import replace

import pytest

from bench.core.cell import Cell
from bench.report.kinds import Promise, WrongCell
from bench.report.table import render
from strategies.records import Run
from tests.bench.report.test_kinds import MEASUREMENT

pytestmark = pytest.mark.workers(1)

MEASURED = replace(
    MEASUREMENT,
    rounds={"sequential": [0.5, 0.3, 0.9], "parallel": [0.2, 0.4, 0.1]},
    steps_per_round=10,
    bound=1.75,
    profile={"compute": [0.9, 0.7], "communication": [0.1, 0.1], "waiting": [0.0, 0.2]},
)


def rows(*records, first):
    shown = render(Run(records=list(records)), 120, colour=False)
    return [line.split() for line in shown.splitlines() if line.split()[:1] == [first]]


def test_a_cell_is_shown_in_milliseconds_a_step():
    (row,) = rows(MEASURED, first="DataParallel")
    figures = "2 64 50.00 20.00 1.50 1.40-1.60 1.75 1.10 1,234 80/10/10 1e-07"
    assert row == ["DataParallel", *figures.split()]


def test_cells_of_several_sizes_are_shown_in_seconds_an_epoch():
    larger = replace(MEASURED, cell=replace(MEASURED.cell, dataset_size=2000))
    for row, size in zip(rows(MEASURED, larger, first="DataParallel"), ("1,000", "2,000")):
        assert row[:6] == ["DataParallel", "2", "64", size, "0.50", "0.20"]


def test_what_is_wrong_crowded_or_unchecked_is_marked():
    wrong = WrongCell(Cell("DataParallel", "mlp", 2, 64, 1000), 0.5, "the weights differ")
    unchecked = replace(
        MEASURED, oversubscribed=True, check_error=None, bound=None, note="so it is"
    )
    first, second = rows(wrong, unchecked, first="DataParallel")
    assert first == ["DataParallel", "2", "64", "WRONG", "5e-01"]
    assert (second[1], second[-1]) == ("2†", "*")
    shown = render(Run(records=[wrong, unchecked]), 120, colour=False)
    assert "WRONG  DataParallel: the weights differ" in shown
    assert "* so it is" in shown
    assert "† more workers than cores" in shown


def styled(**changes):
    shown = render(Run(records=[replace(MEASURED, **changes)]), 120, colour=True)
    (line,) = (line for line in shown.splitlines() if "DataParallel" in line)
    before = line.partition("1.50")[0]
    return {"31": "red", "32": "green", "33": "yellow"}.get(
        before.rpartition("\x1b[")[2].partition("m")[0].removeprefix("1;")
    )


@pytest.mark.parametrize(
    ("low", "high", "colour"),
    [(1.01, 2, "green"), (0.5, 0.99, "red"), (0.99, 1.01, "yellow"), (0.5, 1, "yellow")],
)
def test_colours_follow_the_whole_interval(low, high, colour):
    assert styled(speedup_low=low, speedup_high=high) == colour


def test_a_single_worker_has_nothing_to_gain_and_no_colour():
    assert styled(cell=replace(MEASURED.cell, workers=1)) is None


@pytest.mark.parametrize(
    ("value", "kept"), [(1.5, True), (1.499, True), (1.501, False), (float("nan"), False)]
)
def test_a_promise_is_kept_up_to_its_limit(value, kept):
    assert Promise("a / b", value, 1.5).kept is kept
    assert Promise("a / b", value).kept


def test_a_net_on_another_device_has_a_table_of_its_own():
    on_device = replace(MEASURED, cell=replace(MEASURED.cell, device="cuda"))
    shown = render(Run(records=[MEASURED, on_device]), 120, colour=False).splitlines()
    assert [line.strip() for line in shown if line.startswith("mlp")] == ["mlp", "mlp on cuda"]
