"""Are steps as fast, and memory as small, as promised?"""

import tracemalloc
from dataclasses import replace

import numpy as np
import psutil
import pytest
from mpi4py import MPI

import nn
from bench.core import grid
from bench.core.arms import calls_in_turn
from bench.core.cell import Cell, interval
from bench.core.cores import available
from bench.core.grid import MLP_SIZES, random_batch
from bench.core.products import matrix_products
from bench.core.race import race
from bench.core.turns import ratio
from bench.marks import only_in_full_grid
from strategies import DataParallel, Sequential, SharedDataParallel


@pytest.fixture
def cores(comm):
    """Skip the test if there are fewer cores than workers."""
    if comm.size > available():
        pytest.skip(f"{comm.size} workers need as many cores; there are {available()}")


def _trainer(model, optimizer, batch):
    strategy = Sequential(model, optimizer)
    return lambda: strategy.step(batch)


def _torch_trainer(batch, name, **arguments):
    torch = pytest.importorskip("torch")
    from nn.torch import zoo

    torch.set_num_threads(1)
    net = zoo.build(name, **arguments)
    optimizer = torch.optim.SGD(net.parameters(), 0.01)
    x, y = torch.from_numpy(batch.x), torch.from_numpy(batch.y)

    def step():
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()

    return step


@pytest.mark.workers(1)
@pytest.mark.parametrize(
    ("momentum", "limit"),
    [
        pytest.param(0, 1.15, id="plain"),
        pytest.param(0.9, None, id="momentum", marks=pytest.mark.full),
    ],
)
def test_step_against_its_products(promise, momentum, limit):
    # Where its arrays happen to lie makes a program some per cent faster or slower: five of each.
    copies = range(5)
    steps = {
        f"step {i}": _trainer(nn.mlp(MLP_SIZES), nn.SGD(0.01, momentum), random_batch(256))
        for i in copies
    }
    products = {f"products {i}": matrix_products(MLP_SIZES, 256) for i in copies}
    turns = calls_in_turn(steps | products, rounds=15)
    times = {
        "step": [seconds for arm in steps for seconds in turns[arm]],
        "products": [seconds for arm in products for seconds in turns[arm]],
    }
    name = f"numpy step / its matrix products, batch 256, SGD{' with momentum' * bool(momentum)}"
    promise(name, ratio(times["step"], times["products"]), limit, times["step"])


@pytest.mark.workers(1)
@pytest.mark.parametrize("batch_size", [64, 256])
def test_step_against_torch(promise, batch_size):
    batch = random_batch(batch_size)
    arms = {
        "step": _trainer(nn.mlp(MLP_SIZES), nn.SGD(0.01), batch),
        "torch": _torch_trainer(batch, "mlp", sizes=MLP_SIZES),
    }
    times = calls_in_turn(arms)
    name = f"numpy step / torch eager step, batch {batch_size}"
    promise(name, ratio(times["step"], times["torch"]), 1.0, times["step"])


@pytest.mark.workers(1)
def test_cnn_step_against_torch(promise):
    batch = random_batch(64, (1, 28, 28))
    arms = {"step": _trainer(nn.cnn(), nn.SGD(0.01), batch), "torch": _torch_trainer(batch, "cnn")}
    times = calls_in_turn(arms, rounds=15)
    promise(
        "numpy cnn step / torch eager step, batch 64",
        ratio(times["step"], times["torch"]),
        2.0,
        times["step"],
    )


@pytest.mark.usefixtures("cores")
@pytest.mark.workers(2)
@pytest.mark.parametrize("batch_size", [256, 1024])
def test_against_bound(comm, promise, batch_size):
    """Compare a step with the same computation without communication."""
    limits = {SharedDataParallel: 1.08, DataParallel: 1.30}
    plain = lambda: Sequential(nn.mlp(MLP_SIZES), nn.SGD(0.01))  # noqa: E731

    def case(strategy):
        cell = Cell(strategy.__name__, "mlp", 2, batch_size, 10_000)
        build = lambda comm: strategy(nn.mlp(MLP_SIZES), nn.SGD(0.01), comm)  # noqa: E731
        return replace(grid.case(cell), build=build, sequential=plain)

    results = measured(comm, map(case, limits), seconds=4.0)
    for i, (result, limit) in enumerate(zip(results, limits.values())):
        times = result.rounds
        name = f"{result.cell.strategy} step / its bound, 2 workers, batch {batch_size}"
        value = ratio(times["parallel"], times["silent"])
        rounds = () if i else times["parallel"]  # pytest-benchmark takes one list from each test
        promise(name, value, limit, rounds, machine=result.machine)


@pytest.mark.usefixtures("cores")
@pytest.mark.workers(2)
@pytest.mark.parametrize("strategy", ["Hogwild", only_in_full_grid("LocalSGD-10")])
def test_free_running(comm, promise, strategy):
    """Two workers that do not wait train 1.5 times the samples of one thread.

    They train 0.95 times those of SharedDataParallel, which waits in every step. A promise is
    broken if the whole interval of the ratio breaks it.
    """
    names = (strategy, "SharedDataParallel")
    cases = [grid.case(Cell(name, "mlp", 2, 256, 10_000)) for name in names]
    free, shared = measured(comm, cases)
    times = free.rounds["parallel"]
    what = f"{strategy} step / {{}}, the least that its interval allows"
    _, most = interval(free.rounds["sequential"], times)
    promise(what.format("one thread"), 1 / most, 1 / 1.5, times, machine=free.machine)
    _, most = interval(shared.rounds["parallel"], times)
    promise(what.format("SharedDataParallel"), 1 / most, 1 / 0.95, machine=free.machine)


def measured(comm, cases, **options):
    """Race cells, and return their measurements."""
    outcomes = race(list(cases), comm, **options)
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            raise outcome
    return outcomes


@pytest.mark.workers(2)
def test_rows_of_others_in_the_batch_take_no_memory(comm, promise):
    """Half of a batch takes a rank as much memory as a whole batch of half the size."""
    data = nn.data.load("digits", 10_000)

    def peak(batch_size, on):
        strategy = DataParallel(nn.mlp(MLP_SIZES), nn.SGD(0.01), on)
        return _peak(lambda: strategy.step(next(iter(data.batches(batch_size)))))

    peak(1024, comm)
    value = _largest(comm, peak(2048, comm) / peak(1024, MPI.COMM_SELF))
    promise("peak memory of half a batch of 2048 / of a batch of 1024", value, 1.01)


@pytest.mark.full
@pytest.mark.workers(2)
def test_rows_not_read_take_no_memory(comm, promise):
    """60,000 more rows in the data set take no private memory of a rank that does not read them.

    Private memory is asked of the system, since `tracemalloc` does not see all of it. Pages of the
    file are not private: all ranks share one copy, which the system takes back when memory is
    short, and kernels differ in how many pages they map around a row that is read.
    """
    process = psutil.Process()
    if not hasattr(process.memory_info(), "shared"):
        pytest.skip("this system does not say how much of a process's memory is shared")

    def own():
        memory = process.memory_info()
        return memory.rss - memory.shared

    def taken(size):
        before = own()
        data = nn.data.load("digits", size)
        strategy = DataParallel(nn.mlp(MLP_SIZES), nn.SGD(0.01), comm)
        batches = data.batches(256)
        for _ in range(5):
            strategy.step(next(batches))
        return own() - before

    taken(70_000)
    value = _largest(comm, (taken(70_000) - taken(10_000)) / (60_000 * 784 * 4))
    promise("memory that 60,000 rows of others take / their size", value, 0.01)


def _peak(function):
    """The most bytes that Python and numpy had allocated at once during a call."""
    tracemalloc.start()
    function()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


def _largest(comm, value):
    everyone = np.array([value])
    comm.Allreduce(MPI.IN_PLACE, everyone, MPI.MAX)
    return everyone[0]
