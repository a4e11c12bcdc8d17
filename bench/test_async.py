"""What is gained by not waiting for each other at every step, or by sending less?"""

import pytest

from bench.core.cell import Cell
from bench.core.grid import loose
from bench.marks import cell_test, only_in_full_grid

TOPIC = "async"

QUICK = "Hogwild"
"""The strategy of the quick grid."""


@cell_test
@pytest.mark.workers(2)
@pytest.mark.parametrize(
    "strategy", [QUICK, *(only_in_full_grid(name) for name in loose() if name != QUICK)]
)
def test_loose(strategy, workers):
    return Cell(strategy, "mlp", workers, 256, 10_000)
