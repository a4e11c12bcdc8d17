"""What do the projects that this suite grew from measure here?

Three student projects, each a preset of one test:

*Epochs.* The time of an epoch over 10,000 to 70,000 digits of 400 principal components, for a fully
connected and a convolutional net, plainly and by all ranks (the project had 4).

*Table.* Iris by the net 4-50-3, and digits by the CNN with 64x7x7 features; Adam at a learning rate
of 0.001, batches of 64 rows, 100 and 10 epochs. For each: plain training (base), the rows of every
batch divided among the ranks (the project had 4 threads), and each device: runtime and accuracy.

*VGG.* VGG-11 on CIFAR-10 by Hogwild and data-parallel: loss against time, accuracy of each class,
and how the cores are used.

By default a subset that ends within 3 minutes on 2 cores: epochs over 10,000, 30,000 and 70,000
rows; the CNN's table on 1,000 digits; a VGG a quarter as wide, eight epochs of 2,000 painted
images of CIFAR-10's shape. As the projects had it:

nox -s bench_mpi -- -n 4 bench/studies/projects.py --classic --set-path ~/cifar-10-batches-bin
"""

import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import pytest
from mpi4py import MPI

import nn
from bench.core.cell import Case, Cell
from bench.core.check import equals_sequential, uneven_rows
from bench.core.core_use import watched
from bench.core.grid import optimizer
from bench.marks import planned
from bench.report.kinds import Use
from bench.studies.conftest import chosen_by
from bench.studies.judging import judge
from nn.data import Dataset, load
from nn.model import Model
from nn.optim import Optimizer
from strategies import History, Sequential, SharedDataParallel, Strategy, train
from strategies.catalog import CATALOG
from strategies.comm.on_rank_0 import sleeping_barrier
from strategies.tasks.models import by_name

TOPIC = "projects"

WORKERS = MPI.COMM_WORLD.size

EPOCH_ROWS = (10_000, 20_000, 30_000, 40_000, 50_000, 60_000, 70_000)
USUAL_ROWS = (10_000, 30_000, 70_000)
FEATURES, EPOCH_BATCH = 400, 256

RATE, TABLE_BATCH = 0.001, 64
DIGITS, CLASSIC_DIGITS = 1_000, 60_000
"""Training rows of the table's CNN."""

IMAGES, CLASSIC_IMAGES = 2_000, 50_000
WIDTH, CLASSIC_WIDTH = 16, 64
VGG_BATCH, VGG_EPOCHS, CLASSIC_VGG_EPOCHS = 64, 8, 20
LOSS_ROWS = 500


# Epochs


def with_features(net: str, rows: int, strategy: str, workers: int) -> Cell:
    return Cell(strategy, f"{net}, {FEATURES} features", workers, EPOCH_BATCH, rows)


def case_with_features(cell: Cell, net: str, rows: int, strategy: str, workers: int) -> Case:
    data = load("digits", rows, features=FEATURES)
    build = by_name(net, data)
    full = [b for b in data.batches(EPOCH_BATCH) if b.global_count == EPOCH_BATCH]
    uneven = next(iter(data.batches(uneven_rows(workers, EPOCH_BATCH), seed=1)))
    return Case(
        cell=cell,
        build=lambda comm: CATALOG[strategy](build(), optimizer(), comm),
        sequential=lambda: Sequential(build(), optimizer()),
        batches=full,
        check_batches=[*full[:2], uneven],
        check=equals_sequential,
    )


@planned(with_features, case_with_features)
@pytest.mark.workers(WORKERS)
@pytest.mark.parametrize("rows", EPOCH_ROWS)
@pytest.mark.parametrize("strategy", ["SharedDataParallel"])
@pytest.mark.parametrize("net", ["mlp", "cnn"])
def test_epoch(request, speedup, net, rows, strategy, workers):
    if rows not in USUAL_ROWS and not request.config.option.classic:
        pytest.skip(f"{rows:,} rows are measured with --classic")
    speedup(with_features(net, rows, strategy, workers))


# Table


@dataclass(frozen=True)
class Preset:
    """A project's net, what it learns, and for how long.

    Attributes:
        data: says whether all rows are wanted -> the data set.
        numpy: builds the net.
        torch: the name of the same net in `nn.torch.zoo`, its arguments, and the shape of a row.
        epochs: as the project had them.
    """

    data: Callable[[bool], Dataset]
    numpy: Callable[[], Model]
    torch: tuple[str, dict[str, Any], tuple[int, ...]]
    epochs: int

    def on(self, device: str) -> Model:
        """Build the net for a device: in numpy for "cpu", else in torch."""
        if device == "cpu":
            return self.numpy()
        from nn.torch import TorchModel, build  # torch takes seconds to import

        name, arguments, shape = self.torch
        return TorchModel(build(name, **arguments), device, seed=0, input_shape=shape)


PRESETS = {
    "iris, 4-50-3": Preset(
        lambda classic: load("iris"),
        partial(nn.mlp, [4, 50, 3]),
        ("mlp", {"sizes": [4, 50, 3]}, (4,)),
        epochs=100,
    ),
    "CNN, 64x7x7 features": Preset(
        lambda classic: load("digits", CLASSIC_DIGITS if classic else DIGITS),
        partial(nn.cnn, padding=1),
        ("cnn", {"padding": 1}, (1, 28, 28)),
        epochs=10,
    ),
}


def settings(config: pytest.Config, project: Preset, device: str = "cpu") -> dict[str, Any]:
    """What a row of the table gives to `train`; the data set is "dataset"."""
    chosen = chosen_by(config)
    data = project.data(chosen.classic)
    return {
        "dataset": data,
        "batch_size": TABLE_BATCH,
        "epochs": chosen.epochs or project.epochs,
        "evaluate": judge(data, project.on(device), LOSS_ROWS),
    }


def adam() -> nn.Adam:
    return nn.Adam(RATE)


@pytest.mark.workers(1)
@pytest.mark.parametrize("preset", PRESETS)
def test_base(request, record, preset, device):
    """Plain training, on each device."""
    project = PRESETS[preset]
    strategy = Sequential(project.on(device), adam())
    history = train(strategy, **settings(request.config, project, device))
    record(replace(history, name=f"{preset}: base, {device}"))


@pytest.mark.workers(WORKERS)
@pytest.mark.parametrize("preset", PRESETS)
def test_batches(request, comm, record, preset):
    """The rows of every batch are divided among the workers."""
    project = PRESETS[preset]
    options = settings(request.config, project)
    _check(comm, project.numpy, adam, options["dataset"])
    strategy = SharedDataParallel(project.numpy(), adam(), comm)
    history = train(strategy, **options)
    strategy.close()
    record(replace(history, name=f"{preset}: batches, {comm.size} workers"))


def _check(
    comm: MPI.Intracomm,
    build: Callable[[], Model],
    optimizer: Callable[[], Optimizer],
    data: Dataset,
    strategy: Callable[..., Strategy] = SharedDataParallel,
) -> None:
    """Raise AssertionError if a strategy does not train as plain training does."""
    rows = uneven_rows(comm.size, TABLE_BATCH)
    batches = list(data.batches(rows))[:2]
    trained = strategy(build(), optimizer(), comm)
    problem = equals_sequential(trained, Sequential(build(), optimizer()), batches, comm).problem
    trained.close()
    assert not problem, problem


# VGG


@pytest.mark.workers(WORKERS)
@pytest.mark.parametrize("strategy", ["Sequential", "SharedDataParallel", "Hogwild"])
def test_vgg(request, comm, record, strategy):
    """The processes of all ranks are watched, by a thread of rank 0.

    The evaluations at the ends of epochs are rank 0's alone; they are seen in the use of the cores.
    """
    torch = pytest.importorskip("torch")
    from nn.torch import TorchModel, build

    torch.set_num_threads(1)
    chosen = chosen_by(request.config)
    rows = chosen.rows or (CLASSIC_IMAGES if chosen.classic else IMAGES)
    data = load("cifar10", rows, path=chosen.set_path)
    width = CLASSIC_WIDTH if chosen.classic else WIDTH

    def net() -> TorchModel:
        shape = (3, 32, 32)
        return TorchModel(build("vgg11", width=width), seed=0, input_shape=shape)

    def sgd() -> nn.SGD:
        return nn.SGD(0.05)  # with momentum of its own, each rank of Hogwild overshoots

    name = f"VGG-11, width {width}: {strategy}"
    entry, alone = CATALOG[strategy], strategy == "Sequential"
    if entry.exact and not alone:
        _check(comm, net, sgd, data, entry)
    pids = {f"rank {i}": pid for i, pid in enumerate(comm.allgather(os.getpid()))}
    history: History | None = None
    with ExitStack() as stack:
        use = stack.enter_context(watched(pids)) if comm.rank == 0 else None
        if comm.rank == 0 or not alone:
            trained = entry(net(), sgd(), cast(MPI.Intracomm, MPI.COMM_SELF) if alone else comm)
            history = train(
                trained,
                data,
                batch_size=VGG_BATCH,
                epochs=chosen.epochs or (CLASSIC_VGG_EPOCHS if chosen.classic else VGG_EPOCHS),
                evaluate=judge(data, net(), LOSS_ROWS),
            )
            trained.close()
        sleeping_barrier(comm)
    if history:
        record(replace(history, name=name))
    if use:
        record(Use.of(name, use))
