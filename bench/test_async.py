"""What is gained by not waiting for each other at every step, or by sending less?"""

import pytest

from bench.conftest import hold
from bench.core.cell import Cell
from bench.core.grid import case, loose
from bench.core.measure import measure
from bench.marks import only_in_full_grid
from bench.report.promises import Promise

TOPIC = "async"

FREE_RUNNING = ("LocalSGD-10", "Hogwild")
"""Strategies that promise a speed; the one in the quick grid is QUICK."""

QUICK = "Hogwild"

OVER_ONE_THREAD = 1.5
"""Promise: two free-running workers on two cores train as many times the samples of one thread."""

OVER_SYNCHRONOUS = 0.95
"""Promise: they train as many times the samples of SharedDataParallel, which waits every step."""


@pytest.mark.workers(2)
@pytest.mark.parametrize(
    "strategy", [QUICK, *(only_in_full_grid(name) for name in loose() if name != QUICK)]
)
def test_loose(speedup, record, comm, lap, workers, strategy, pytestconfig):
    """A promise is broken if the interval of the measured speedup lies below it.

    Launches of the gate (--cells) only measure: the gate has its own verdict.
    """
    result = speedup(Cell(strategy, "mlp", workers, 256, 10_000))
    if pytestconfig.option.cells or result.oversubscribed:
        return
    if strategy in FREE_RUNNING:
        synchronous = measure(case(Cell("SharedDataParallel", "mlp", workers, 256, 10_000)), comm)
        background_load, least = lap(), 1 / result.speedup_high
        over = {
            "one thread": (least, 1 / OVER_ONE_THREAD),
            "SharedDataParallel": (least * synchronous.speedup_low, 1 / OVER_SYNCHRONOUS),
        }
        what = f"{strategy} step / {{}}, the least that its interval allows"
        ratios = [Promise(what.format(other), *ratio) for other, ratio in over.items()]
        for ratio in ratios:
            record(ratio, f"{result.speedup:.2f}x", [], {})
        hold(ratios, background_load, comm.size)
