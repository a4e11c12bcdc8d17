"""The figures of the tables, from results whose figures are known."""

from dataclasses import replace

import pytest

from bench.core.cell import Cell
from bench.report.kinds import Promise, Scaling, WrongCell
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
    """A turn of 10 steps of plain training lasts 0.5 s; an epoch has 1,000 or 2,000 / 64 steps."""
    larger = replace(MEASURED, cell=replace(MEASURED.cell, dataset_size=2000))
    one, other = rows(MEASURED, larger, first="DataParallel")
    assert one[:6] == ["DataParallel", "2", "64", "1,000", "0.78", "0.31"]
    assert other[:6] == ["DataParallel", "2", "64", "2,000", "1.56", "0.62"]


def test_details_have_quantiles_efficiency_serial_share_and_intervals():
    detailed = replace(
        MEASURED,
        rounds=MEASURED.rounds | {"silent": [0.25, 0.15, 0.45], "threads": [0.25, 0.15, 0.45]},
        single_steps={"p50": 0.02, "p95": 0.034, "max": 0.05},
    )
    shown = render(Run(records=[detailed]), 120, colour=False, details=True)
    (row,) = (line.split() for line in shown.splitlines() if line.startswith("DataParallel"))
    assert row[6:] == [
        *("1.40-1.60", "1.75", "2.00-2.00", "1.10", "1,234", "80/10/10", "1e-07"),
        *("34.00", "0.75", "0.33"),
    ]
    assert "p95" in shown
    assert "p95" not in render(Run(records=[detailed]), 120, colour=False)


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


def test_scaling_is_shown_with_its_serial_share_and_the_state_of_the_machine():
    """A speedup of 1.5 on 2 workers leaves a third of the step serial."""
    strong = Scaling(
        *("strong", "ZeRO", "net", 2, 1024, 0.75, 0.7, 0.8, False),
        machine={"background_load": [0.5]},
    )
    weak = replace(strong, law="weak", workers=4, batch_size=2048, oversubscribed=True)
    alone = replace(strong, workers=1)
    (one, other), (last,) = rows(strong, alone, first="strong"), rows(weak, first="weak")
    assert one[1:] == ["net", "ZeRO", "2", "1024", "0.75", "0.70-0.80", "0.33"]
    assert other[1:] == ["net", "ZeRO", "1", "1024", "0.75", "0.70-0.80"]
    assert last[1:] == ["net", "ZeRO", "4†", "2048", "0.75", "0.70-0.80"]
    shown = render(Run(records=[strong]), 120, colour=False)
    assert "other programs kept 0.5 cores busy" in shown


def test_a_promise_that_is_not_kept_is_shown_with_what_it_means():
    kept = Promise("a / b", 1.0, 1.5)
    broken = Promise("c / d", 1.75, 1.5, 1.6, "cores shared no cache in 4 of 9 rounds")
    shown = render(Run(records=[kept, broken]), 120, colour=False)
    assert [line.split()[-4:] for line in shown.splitlines() if line.startswith("a / b")] == [
        ["1.000", "at", "most", "1.5"]
    ]
    assert "1.750 at most 1.5 not kept" in " ".join(shown.split())
    assert "The training is right nevertheless" in " ".join(shown.split())
    assert broken.verdict in " ".join(shown.split())
    assert "not kept" not in render(Run(records=[kept]), 120, colour=False)
    excused = replace(broken, value=1.55)
    assert "1.550 at most 1.5 explained" in " ".join(
        render(Run(records=[excused]), 120, colour=False).split()
    )


def test_a_net_on_another_device_has_a_table_of_its_own():
    on_device = replace(MEASURED, cell=replace(MEASURED.cell, device="cuda"))
    shown = render(Run(records=[MEASURED, on_device]), 120, colour=False).splitlines()
    assert [line.strip() for line in shown if line.startswith("mlp")] == ["mlp", "mlp on cuda"]
