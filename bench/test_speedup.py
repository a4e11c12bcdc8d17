"""Does training in parallel pay, and from which batch size on?"""

import pytest

from bench.core.cell import Cell
from bench.core.grid import synchronous, worker_counts
from bench.marks import cell_test, only_in_full_grid

TOPIC = "speedup"

WORKERS = worker_counts()
pytestmark = pytest.mark.devices("cpu")  # a net of numpy; on other devices it is one of torch


@cell_test
@pytest.mark.parametrize("batch_size", [only_in_full_grid(64), 256, only_in_full_grid(1024)])
@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("strategy", synchronous())
def test_mlp(strategy, workers, batch_size, device):
    return Cell(strategy, "mlp", workers, batch_size, 10_000, device)


@cell_test
@pytest.mark.full
@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("strategy", synchronous())
def test_cnn(strategy, workers, device):
    return Cell(strategy, "cnn", workers, 64, 10_000, device)
