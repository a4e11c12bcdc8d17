"""Does training in parallel pay, and from which batch size on?"""

import pytest

from bench.core.cell import Cell
from bench.core.grid import synchronous, worker_counts
from bench.marks import only_in_full_grid

TOPIC = "speedup"

WORKERS = worker_counts()
pytestmark = pytest.mark.devices("cpu")  # a net of numpy; on other devices it is one of torch


@pytest.mark.parametrize("batch_size", [only_in_full_grid(64), 256, only_in_full_grid(1024)])
@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("strategy", synchronous())
def test_mlp(speedup, strategy, workers, batch_size, device):
    speedup(Cell(strategy, "mlp", workers, batch_size, 10_000, device))


@pytest.mark.full
@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("strategy", synchronous())
def test_cnn(speedup, strategy, workers, device):
    speedup(Cell(strategy, "cnn", workers, 64, 10_000, device))
