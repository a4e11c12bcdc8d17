"""The grid: which strategies, models and sizes are measured, and how a cell of it is built.

A new strategy is one line of STRATEGIES.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
from mpi4py import MPI

import nn
from bench.core.cell import Case, Cell
from bench.core.check import Checker, equals_sequential, unchecked
from nn.data import Dataset
from strategies import (
    CompressedDataParallel,
    DataParallel,
    Hogwild,
    LocalSGD,
    ParameterServer,
    PowerSGD,
    Sequential,
    SharedDataParallel,
    Strategy,
    TopK,
)
from strategies.compressed_data_parallel import Compression


@dataclass(frozen=True)
class Entry:
    """A strategy that is measured.

    Attributes:
        name: in results.
        build: (model, optimizer, comm) -> Strategy.
        check: `equals_sequential`, `unchecked("why not")`, or one of its own.
        runs_silent: whether it runs on when no message arrives (see `cell.Case`).
        models: of MODELS, those it can train.
        common: whether it is part of the common grid; otherwise it has a file of its own.
    """

    name: str
    build: Callable[[Any, Any, MPI.Intracomm], Strategy]
    check: Checker = equals_sequential
    runs_silent: bool = True
    models: tuple[str, ...] = ("mlp", "cnn")
    common: bool = True


_OWN_WAY = unchecked("not equal to plain training step by step: see how soon it is as good")


def _compressed(compression: Callable[[], Compression]) -> Callable[..., Strategy]:
    """A strategy whose every object has a compression of its own."""
    return lambda model, optimizer, comm: CompressedDataParallel(
        model, optimizer, comm, compression()
    )


STRATEGIES = {
    entry.name: entry
    for entry in (
        Entry("Sequential", Sequential),
        Entry("DataParallel", DataParallel),
        Entry("DataParallel-3-buckets", partial(DataParallel, buckets=3)),
        Entry("SharedDataParallel", SharedDataParallel),
        Entry("LocalSGD-10", partial(LocalSGD, period=10), _OWN_WAY, common=False),
        Entry("Hogwild", Hogwild, _OWN_WAY, common=False),
        Entry("Hogwild-lock", partial(Hogwild, lock=True), _OWN_WAY, common=False),
        Entry("ParameterServer", ParameterServer, runs_silent=False, common=False),
        Entry(
            "TopK-1%", _compressed(lambda: TopK(2350)), _OWN_WAY, runs_silent=False, common=False
        ),
        Entry("PowerSGD-2", _compressed(lambda: PowerSGD(2)), _OWN_WAY, common=False),
    )
}

MLP_SIZES = [784, 256, 128, 10]
"""Inputs, hidden neurons and classes of the usual net."""

MODELS: dict[str, Callable[[], nn.Model]] = {
    "mlp": lambda: nn.mlp(MLP_SIZES),
    "cnn": nn.cnn,
}

TORCH_NETS: dict[str, tuple[dict[str, Any], nn.layers.Shape]] = {
    "mlp": ({"sizes": MLP_SIZES}, (784,)),
    "cnn": ({}, (1, 28, 28)),
}
"""The same nets in torch: what `torch_zoo.build` is to be given, and the shape of a row."""


def model(name: str, device: str) -> nn.Model:
    """A new one of MODELS: on the CPU in numpy, and on other devices the same net in torch.

    Raises:
        ValueError: torch does not find the device.
    """
    if device == "cpu":
        return MODELS[name]()
    from nn.torch.model import TorchModel  # torch takes seconds to import: only for who needs it
    from nn.torch.zoo import build

    arguments, shape = TORCH_NETS[name]
    return TorchModel(build(name, **arguments), device, input_shape=shape)


def worker_counts() -> list[int]:
    """1, 2, 4, ... and all ranks of this launch."""
    world = MPI.COMM_WORLD.size
    return [*(2**i for i in range(world.bit_length()) if 2**i < world), world]


def full(value: Any) -> Any:
    """A parameter value that --quick leaves out."""
    return pytest.param(value, marks=pytest.mark.full)


def optimizer() -> nn.SGD:
    """Of every cell."""
    return nn.SGD(0.01, momentum=0.9)


def random_batch(rows: int, shape: tuple[int, ...] = (784,)) -> nn.Batch:
    """Where data is of no matter, only its size: float32 of ten classes."""
    rng = np.random.default_rng(0)
    return nn.Batch(rng.random((rows, *shape), np.float32), rng.integers(0, 10, rows))


@cache
def _data(size: int) -> Dataset:
    return nn.data.load("digits", size)


def case(cell: Cell) -> Case:
    """How a cell is trained.

    Raises:
        ValueError: a name that is not in STRATEGIES or MODELS.
    """
    for name, known in ((cell.strategy, STRATEGIES), (cell.model, MODELS)):
        if name not in known:
            raise ValueError(f"{name!r}: expected one of {', '.join(known)}")
    entry, net = STRATEGIES[cell.strategy], partial(model, cell.model, cell.device)
    data = _data(cell.dataset_size)
    batches = [b for b in data.batches(cell.batch_size) if b.global_count == cell.batch_size]
    # One row short, so that shards are not equal and a mean of means shows.
    short = next(iter(data.batches(max(1, cell.batch_size - 1), seed=1)))
    return Case(
        cell=cell,
        build=lambda comm: entry.build(net(), optimizer(), comm),
        sequential=lambda: Sequential(net(), optimizer()),
        batches=batches,
        check_batches=[*batches[:2], short],
        check=entry.check,
        runs_silent=entry.runs_silent,
    )
