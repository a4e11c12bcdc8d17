"""Does training in parallel pay, and from which batch size on?"""

import pytest

from bench.core.cell import Cell
from bench.core.grid import STRATEGIES, full, worker_counts

TOPIC = "speedup"

WORKERS = worker_counts()
pytestmark = pytest.mark.devices("cpu")  # a net of numpy; on other devices it is one of torch
PARALLEL = [s.name for s in STRATEGIES.values() if s.common and s.name != "Sequential"]


@pytest.mark.parametrize("batch_size", [full(64), 256, full(1024)])
@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("strategy", PARALLEL)
def test_mlp(speedup, strategy, workers, batch_size, device):
    speedup(Cell(strategy, "mlp", workers, batch_size, 10_000, device))


@pytest.mark.full
@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("strategy", PARALLEL)
def test_cnn(speedup, strategy, workers, device):
    speedup(Cell(strategy, "cnn", workers, 64, 10_000, device))
