"""Does your own pay?

Run by `pytest bench --model file.py:factory --strategy file.py:Class` (see strategies/YOUR_OWN.md).
"""

import pytest

from bench import cells, doors
from bench.cells import full, worker_counts
from bench.doors import Net
from bench.measure import Case, Cell
from strategies import Sequential
from strategies.base import Refused

OURS = {
    "mlp": Net("mlp", lambda dtype: cells.MODELS["mlp"]()),
    "cnn": Net("cnn", lambda dtype: cells.MODELS["cnn"]()),
}

ROWS = 1024
"""Random rows that are trained on, if there is no --data."""


def pytest_generate_tests(metafunc):
    yours = doors.of(metafunc.config)
    metafunc.parametrize("strategy", yours.strategies())
    metafunc.parametrize("model", yours.nets(OURS))


@pytest.mark.parametrize("batch_size", [full(64), 256, full(1024)])
@pytest.mark.parametrize("workers", worker_counts())
def test_yours(request, speedup, strategy, model, workers, batch_size):
    yours = doors.of(request.config)
    build, net = yours.strategies()[strategy], yours.nets(OURS)[model]
    rows = len(net.rows[1]) if net.rows else ROWS
    if batch_size > rows:
        pytest.skip(f"a batch of {batch_size} rows, and --data has {rows}")
    # One row short at the end, so that shards are not equal.
    sizes = [batch_size] * (ROWS // batch_size) + [batch_size - 1]
    *batches, short = net.batches(sizes, "float32")
    cell = Cell(strategy, model, workers, batch_size, rows)

    def trained(strategy, *comm):
        optimizer = cells.optimizer()
        return strategy(net.model("float32", optimizer), optimizer, *comm)

    case = Case(
        cell=cell,
        build=lambda comm: trained(build, comm),
        sequential=lambda: trained(Sequential),
        batches=batches,
        check_batches=[*batches[:2], short],
        bounded=doors.bounded(build),
    )
    try:
        speedup(cell, case)
    except Refused as refusal:
        if yours.strategy:
            raise
        pytest.skip(f"refused: {refusal}")
