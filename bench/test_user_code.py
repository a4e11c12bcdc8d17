"""Does your own pay?

Run by `pytest bench --model file.py:factory --strategy file.py:Class` (bench/user_code/README.md).
"""

import pytest

from bench.core import grid
from bench.core.cell import Case, Cell
from bench.core.grid import full, worker_counts
from bench.user_code import plugin
from bench.user_code.plugin import Build, Net
from strategies import Sequential
from strategies.base import Refused

TOPIC = "yours"

ROWS = 1024
"""Random rows that are trained on, if there is no --data."""

QUICK, BATCH_SIZES = 256, (64, 256, 1024)
"""All rows where there are fewer."""


def pytest_generate_tests(metafunc):
    yours = plugin.of(metafunc.config)
    rows = _rows(yours)
    sizes = sorted({min(size, rows) for size in BATCH_SIZES})
    metafunc.parametrize("strategy", yours.strategies())
    metafunc.parametrize("model", _nets(yours))
    metafunc.parametrize("batch_size", [n if n == min(QUICK, rows) else full(n) for n in sizes])
    metafunc.definition.add_marker(pytest.mark.devices(yours.net.device if yours.net else "cpu"))


def _nets(yours, device="cpu"):
    def ours(name):
        return Net(name, lambda dtype: grid.model(name, device), device=device)

    return yours.nets({name: ours(name) for name in grid.MODELS})


def _rows(yours):
    return len(yours.net.rows()) if yours.net and yours.net.rows else ROWS


@pytest.mark.parametrize("workers", worker_counts())
def test_yours(request, speedup, strategy, model, workers, batch_size, device):
    yours = plugin.of(request.config)
    cell = Cell(strategy, model, workers, batch_size, _rows(yours), device)
    net = _nets(yours, device)[model].on(device)
    try:
        speedup(cell, case(cell, yours.strategies()[strategy], net))
    except Refused as refusal:
        if yours.strategy:
            raise
        pytest.skip(f"refused: {refusal}")


def case(cell: Cell, build: Build, net: Net) -> Case:
    """How `net` is trained by the strategy that `build` makes."""
    # One row short at the end, so that shards are not equal.
    sizes = [cell.batch_size] * (ROWS // cell.batch_size) + [max(1, cell.batch_size - 1)]
    *batches, short = net.batches(sizes, "float32")
    return Case(
        cell=cell,
        build=lambda comm: build(net.build("float32"), grid.optimizer(), comm),
        sequential=lambda: Sequential(net.build("float32"), grid.optimizer()),
        batches=batches,
        check_batches=[*batches[:2], short],
        runs_silent=plugin.runs_silent(build),
    )
