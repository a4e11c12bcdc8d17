"""How does the time of an epoch grow with the data, plainly trained and in parallel?"""

import pytest

from bench.core.cell import Cell
from bench.marks import cell_test, only_in_full_grid

TOPIC = "epochs"

BATCH = 256


@cell_test
@pytest.mark.workers(2)
@pytest.mark.devices("cpu")
@pytest.mark.parametrize("dataset_size", [10_000, 30_000, only_in_full_grid(70_000)])
@pytest.mark.parametrize("strategy", [only_in_full_grid("DataParallel"), "SharedDataParallel"])
def test_epoch(strategy, workers, dataset_size, device):
    return Cell(strategy, "mlp", workers, BATCH, dataset_size, device)
