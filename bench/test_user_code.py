"""Does your own code pay?

Run by `pytest bench --model file.py:factory --strategy file.py:Class` (bench/user_code/README.md).
"""

from collections.abc import Callable
from typing import Any

import pytest

from bench.core import grid
from bench.core.cell import Case, Cell
from bench.core.check import uneven_rows
from bench.core.grid import worker_counts
from bench.marks import only_in_full_grid, planned
from bench.user_code.nets import Net
from bench.user_code.registry import UserCode, loaded, runs_silent
from strategies import Sequential
from strategies.base import Refused
from strategies.catalog import Build

TOPIC = "yours"  # the ids of saved baselines begin with it

ROWS = 1024
"""Number of random rows, if there is no --data."""

QUICK, BATCH_SIZES = 256, (64, 256, 1024)
"""Rows of a batch; a batch that would exceed the rows of --data is all of them."""


def pytest_generate_tests(metafunc):
    user_code = loaded(metafunc.config)
    rows = _rows(user_code)
    sizes = sorted({min(size, rows) for size in BATCH_SIZES})
    metafunc.parametrize("strategy", user_code.strategies())
    metafunc.parametrize("model", _nets(user_code))
    metafunc.parametrize(
        "batch_size", [n if n == min(QUICK, rows) else only_in_full_grid(n) for n in sizes]
    )
    own_device = user_code.net.device if user_code.net else "cpu"
    metafunc.definition.add_marker(pytest.mark.devices(own_device))


def _nets(user_code: UserCode, device: str = "cpu") -> dict[str, Net]:
    def ours(name: str) -> Net:
        return Net(name, lambda dtype: grid.model(name, device), device=device)

    return user_code.nets({name: ours(name) for name in grid.MODELS})


def _rows(user_code: UserCode) -> int:
    return len(user_code.net.rows()) if user_code.net and user_code.net.rows else ROWS


def cell(strategy, model, workers, batch_size, device, pytestconfig):
    """Say what a test measures."""
    return Cell(strategy, model, workers, batch_size, _rows(loaded(pytestconfig)), device)


def case(cell: Cell, strategy, model, device, pytestconfig, **_: Any) -> Case:
    """Say how a cell is trained."""
    user_code = loaded(pytestconfig)
    net = _nets(user_code, device)[model].on(device)
    build = user_code.strategies()[strategy]
    return trained(cell, build, net, user_code.optimizer or grid.optimizer)


@planned(cell, case)
@pytest.mark.parametrize("workers", worker_counts())
def test_yours(pytestconfig, speedup, strategy, model, workers, batch_size, device):
    try:
        speedup(cell(strategy, model, workers, batch_size, device, pytestconfig))
    except Refused as refusal:
        if loaded(pytestconfig).strategy:
            raise
        pytest.skip(f"refused: {refusal}")


def trained(
    cell: Cell, build: Build, net: Net, optimizer: Callable[[], Any] = grid.optimizer
) -> Case:
    """Say how `net` is trained by the strategy that `build` makes, with a new optimizer."""
    sizes = [cell.batch_size] * (ROWS // cell.batch_size)
    sizes.append(uneven_rows(cell.workers, cell.batch_size))
    *batches, uneven = net.batches(sizes, "float32")
    return Case(
        cell=cell,
        build=lambda comm: build(net.build("float32"), optimizer(), comm),
        sequential=lambda: Sequential(net.build("float32"), optimizer()),
        batches=batches,
        check_batches=[*batches[:2], uneven],
        runs_silent=runs_silent(build),
    )
