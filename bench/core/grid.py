"""The grid: which strategies, nets and sizes are measured, and how a cell is trained.

A strategy of the catalog with the use "grid" is measured, without another line.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
from mpi4py import MPI

import nn
from bench.core.cell import Case, Cell
from bench.core.check import equals_sequential, unchecked, uneven_rows
from nn.data import Dataset
from strategies.catalog import CATALOG, select
from strategies.sequential import Sequential

MLP_SIZES = [784, 256, 128, 10]
"""Inputs, hidden neurons and classes of the net that most cells train."""

MODELS: dict[str, Callable[[], nn.Model]] = {
    "mlp": lambda: nn.mlp(MLP_SIZES),
    "cnn": nn.cnn,
}

TORCH_NETS: dict[str, tuple[dict[str, Any], nn.layers.Shape]] = {
    "mlp": ({"sizes": MLP_SIZES}, (784,)),
    "cnn": ({}, (1, 28, 28)),
}
"""The same nets in torch: the arguments of `nn.torch.zoo.build`, and the shape of a row."""


def model(name: str, device: str) -> nn.Model:
    """Make a net of MODELS: on the CPU in numpy, and on other devices the same net in torch.

    Raises:
        ValueError: torch does not find the device.
    """
    if device == "cpu":
        return MODELS[name]()
    from nn.torch.model import TorchModel  # torch takes seconds to import
    from nn.torch.zoo import build

    arguments, shape = TORCH_NETS[name]
    return TorchModel(build(name, **arguments), device, seed=0, input_shape=shape)


def synchronous() -> list[str]:
    """Strategies of the grid that train exactly, with one loss for all ranks after every step."""
    return list(select("grid", exact=True, own_loss=False))


def loose() -> list[str]:
    """The other strategies of the grid: they save waiting or bytes, and most train differently."""
    return [name for name in select("grid") if name not in synchronous()]


def worker_counts() -> list[int]:
    """The numbers of workers that are measured: 1, 2, 4, ... and all ranks of this launch."""
    world = MPI.COMM_WORLD.size
    return [*(2**i for i in range(world.bit_length()) if 2**i < world), world]


def optimizer() -> nn.SGD:
    """The optimizer of every cell: SGD with momentum."""
    return nn.SGD(0.01, momentum=0.9)


def random_batch(rows: int, shape: tuple[int, ...] = (784,)) -> nn.Batch:
    """A batch of random float32 rows in ten classes, for timing only."""
    rng = np.random.default_rng(0)
    return nn.Batch(rng.random((rows, *shape), np.float32), rng.integers(0, 10, rows))


@cache
def _data(size: int) -> Dataset:
    return nn.data.load("digits", size)


def case(cell: Cell) -> Case:
    """How a cell is trained.

    Raises:
        ValueError: a name that is not in the catalog of strategies or in MODELS.
    """
    for name, known in ((cell.strategy, CATALOG), (cell.model, MODELS)):
        if name not in known:
            raise ValueError(f"{name!r}: expected one of {', '.join(known)}")
    entry, net = CATALOG[cell.strategy], partial(model, cell.model, cell.device)
    data = _data(cell.dataset_size)
    batches = [b for b in data.batches(cell.batch_size) if b.global_count == cell.batch_size]
    uneven = next(iter(data.batches(uneven_rows(cell.workers, cell.batch_size), seed=1)))
    return Case(
        cell=cell,
        build=lambda comm: entry(net(), optimizer(), comm),
        sequential=lambda: Sequential(net(), optimizer()),
        batches=batches,
        check_batches=[*batches[:2], uneven],
        check=equals_sequential if entry.exact else unchecked(entry.inexact),
        runs_silent=entry.runs_silent,
    )
