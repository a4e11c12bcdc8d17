"""Each rank holds the memory that the formulas say, measured by tracing allocations.

Between steps exactly; within a step up to a few arrays of activations and Python's own objects.
"""

import contextlib
import gc
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import pytest
from mpi4py import MPI

from nn import SGD, Adam, mlp
from strategies import (
    CompressedDataParallel,
    DataParallel,
    Hogwild,
    Hybrid,
    LocalSGD,
    ParameterServer,
    Pipeline,
    PowerSGD,
    Sequential,
    SharedDataParallel,
    TensorParallel,
    TopK,
    ZeRO,
    costs,
)
from strategies.sharding.schedules import SCHEDULES
from tests.support.oracles import random_batches

SIZES = [6, 9, 7, 8, 4]


def build():
    return mlp(SIZES, "tanh", "float64", seed=1)


@contextlib.contextmanager
def allocated() -> Iterator[Callable[[], int]]:
    """Count the bytes of numpy arrays that were made within it and are still alive.

    Arrays below a dozen elements of 8 bytes are left out: losses and counts, which do not grow
    with a net.
    """
    gc.collect()
    tracemalloc.start()
    numpy_only = tracemalloc.DomainFilter(True, np.lib.tracemalloc_domain)

    def count() -> int:
        gc.collect()
        traces = tracemalloc.take_snapshot().filter_traces([numpy_only]).traces
        return sum(trace.size for trace in traces if trace.size >= 12 * 8)

    try:
        yield count
    finally:
        tracemalloc.stop()


def held_after_two_steps(make: Callable) -> int:
    """Return the bytes of parameters, gradients and optimizer state between steps."""
    batches = random_batches(build(), 8, steps=2)
    with allocated() as count:
        strategy = make(build())
        for batch in batches:
            strategy.step(batch)
        held = count()
        strategy.close()
    return held


@pytest.mark.parametrize("workers", [2, 3])
@pytest.mark.parametrize(
    ("optimizer", "states"), [(lambda: SGD(0.1), 0), (lambda: Adam(1e-2), 2)], ids=["sgd", "adam"]
)
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_zero(comm, workers, stage, optimizer, states):
    held = held_after_two_steps(lambda model: ZeRO(model, optimizer(), comm, stage))
    assert held == costs.held_by_zero(build(), workers, comm.rank, stage, states)


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_tensor_parallel(comm, workers):
    held = held_after_two_steps(lambda model: TensorParallel(model, Adam(1e-2), comm))
    assert held == costs.held_by_tensor_parallel(build(), workers, comm.rank, slots=2)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.workers(2)
def test_pipeline(comm, schedule):
    cuts = [1, 3, 5] if schedule == "interleaved" else [3]
    held = held_after_two_steps(lambda model: Pipeline(model, Adam(1e-2), comm, 2, schedule, cuts))
    assert held == costs.held_by_pipeline(build(), cuts, 2, comm.rank, slots=2)


@pytest.mark.workers(4)
@pytest.mark.parametrize("grid", [(2, 2, 1), (1, 2, 2), (2, 1, 2)], ids=str)
def test_hybrid(comm, grid):
    cuts = [3] if grid[1] == 2 else []
    held = held_after_two_steps(
        lambda model: Hybrid(model, Adam(1e-2), comm, *grid, cuts=cuts, micro_batches=2)
    )
    assert held == costs.held_by_hybrid(build(), cuts, grid, comm.rank, slots=2)


@pytest.mark.workers(1, 2)
@pytest.mark.parametrize(
    ("strategy", "formula"),
    [
        (Sequential, costs.held_by_sequential),
        (DataParallel, costs.held_by_data_parallel),
        (LocalSGD, costs.held_by_data_parallel),
    ],
)
def test_strategies_that_hold_the_whole_net(comm, strategy, formula):
    held = held_after_two_steps(lambda model: strategy(model, Adam(1e-2), comm))
    assert held == formula(build(), slots=2)


@pytest.mark.parametrize(
    ("make", "formula"),
    [
        (partial(SharedDataParallel, private=False), costs.held_by_shared_data_parallel),
        (
            partial(SharedDataParallel, private=True),
            partial(costs.held_by_shared_data_parallel, private=True),
        ),
        (Hogwild, lambda model, ranks, rank, slots: costs.held_by_hogwild(model, slots)),
        (
            ParameterServer,
            lambda model, ranks, rank, slots: costs.held_by_parameter_server(model, rank, slots),
        ),
        (
            lambda model, optimizer, comm: CompressedDataParallel(model, optimizer, comm, TopK(3)),
            lambda model, ranks, rank, slots: costs.held_by_top_k(model, slots),
        ),
        (
            lambda model, optimizer, comm: CompressedDataParallel(
                model, optimizer, comm, PowerSGD(2)
            ),
            lambda model, ranks, rank, slots: costs.held_by_power_sgd(model, 2, slots),
        ),
    ],
    ids=["shared", "private", "hogwild", "server", "top_k", "power_sgd"],
)
def test_strategies_that_split_the_rows(comm, workers, make, formula):
    held = held_after_two_steps(lambda model: make(model, Adam(1e-2), comm))
    assert held == formula(build(), workers, comm.rank, 2)


@pytest.mark.parametrize("strategy", [SharedDataParallel, Hogwild])
def test_what_the_ranks_of_a_node_share(comm, workers, strategy):
    vectors = 1 + workers if strategy is SharedDataParallel else 1
    parallel = strategy(build(), SGD(0.1), comm)
    sizes = comm.allgather(parallel._window._win.Get_attr(MPI.WIN_SIZE))
    assert sum(sizes) == costs.in_shared_window(build(), workers, vectors)
    parallel.close()


def memory_of(contexts) -> dict[int, int]:
    """Return the bytes of each array that contexts keep alive; a view counts as its base."""
    found: dict[int, int] = {}
    todo = [contexts]
    while todo:
        each = todo.pop()
        if isinstance(each, np.ndarray):
            while isinstance(each.base, np.ndarray):
                each = each.base
            found[id(each)] = each.nbytes
        elif isinstance(each, dict):
            todo += each.values()
        elif isinstance(each, list | tuple):
            todo += each
    return found


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_live_activations_of_a_pipeline(comm, workers, schedule):
    """A live micro-batch keeps the input of its stage and the output of each Tanh.

    (A Linear keeps its input, which is the output of the Tanh before it: one array for both.)
    1F1B keeps min(m, P - rank) micro-batches where GPipe keeps all m.
    """
    m, rows, width, tanhs = 6, 2, 5, 2
    chunks = 2 if schedule == "interleaved" else 1
    stages = chunks * workers
    # Linear and Tanh in turn, as many in every stage; the last has one more Linear.
    net = mlp([width] * (tanhs * stages + 2), "tanh", "float64", seed=1)
    cuts = [2 * tanhs * stage for stage in range(1, stages)]
    parallel = Pipeline(net, SGD(0.1), comm, m, schedule, cuts)
    (batch,) = random_batches(net, m * rows, steps=1)
    data = memory_of(batch.x).keys()
    most_contexts = most_bytes = 0

    class Watched(dict):
        def __setitem__(self, key, value):
            nonlocal most_contexts, most_bytes
            super().__setitem__(key, value)
            held = sum(size for array, size in memory_of(self).items() if array not in data)
            most_contexts, most_bytes = max(most_contexts, len(self)), max(most_bytes, held)

    parallel.model.live = Watched()
    parallel.step(batch)
    expected = costs.live_contexts(schedule, workers, comm.rank, m, chunks)
    assert most_contexts == expected
    # The input of a stage is one array more where it came from another rank: not in the first
    # stage, which has its share of rank 0's contexts, and not on a single rank.
    received = expected - (expected // chunks if comm.rank == 0 else 0) if workers > 1 else 0
    assert most_bytes == (expected * tanhs + received) * rows * width * 8


WIDE = 256
DEPTH = 8
ROWS = 12
"""So wide that a layer has more parameters than there are activations: one too many shows."""

PASSING = 6
"""Arrays of activations or their gradients that exist at once besides contexts."""

PYTHON = 32 * 1024
"""Bytes of layers, communicators and views, which are not arrays."""


def build_wide():
    return mlp([WIDE] * (DEPTH + 1), "tanh", "float64", seed=1)


def momentum():
    """Make an optimizer that keeps one vector, and allocates nothing for its update."""
    return SGD(0.1, momentum=0.9)


def peak_of_a_step(make: Callable) -> int:
    """Return the most bytes at any time of the second step; the first allocates what is kept."""
    first, second = random_batches(build_wide(), ROWS, steps=2)
    gc.collect()
    tracemalloc.start()
    try:
        strategy = make(build_wide())
        strategy.step(first)
        gc.collect()
        tracemalloc.reset_peak()
        strategy.step(second)
        _, peak = tracemalloc.get_traced_memory()
        strategy.close()
    finally:
        tracemalloc.stop()
    return peak


def assert_peak(peak: int, kept: int, contexts: float, rows: int, passing: int = 0) -> None:
    """Compare with `kept` bytes, `contexts` arrays of `rows` rows that wait for backward, and more.

    Args:
        passing: elements that exist for a moment besides activations.
    """
    array = rows * WIDE * 8
    assert kept <= peak <= kept + 8 * passing + (contexts + PASSING) * array + PYTHON


@pytest.mark.parametrize("workers", [2, 3])
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_peak_of_zero(comm, workers, stage):
    """Stage 3 never gathers more than one layer."""
    kept = costs.held_by_zero(build_wide(), workers, comm.rank, stage, slots=1)
    peak = peak_of_a_step(lambda model: ZeRO(model, momentum(), comm, stage))
    assert_peak(peak, kept, DEPTH - 1, -(-ROWS // workers))


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_peak_of_tensor_parallel(comm, workers):
    """Every rank has all rows, and of every second activation only its part."""
    kept = costs.held_by_tensor_parallel(build_wide(), workers, comm.rank, slots=1)
    peak = peak_of_a_step(lambda model: TensorParallel(model, momentum(), comm))
    assert_peak(peak, kept, 3 + 4 / workers, ROWS)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.workers(2)
def test_peak_of_pipeline(comm, schedule):
    """A rank has half of the layers, and for a moment one gradient before it is added."""
    m, chunks, cuts, ahead = 4, 1, [DEPTH], 0
    if schedule == "interleaved":
        chunks, cuts = 2, [DEPTH // 2, DEPTH, 3 * DEPTH // 2]
        ahead = 2  # gradients under way: one rank may be 2P - 1 backwards before another, not P - 1
    peak = peak_of_a_step(lambda model: Pipeline(model, momentum(), comm, m, schedule, cuts))
    kept = costs.held_by_pipeline(build_wide(), cuts, 2, comm.rank, slots=1)
    live = costs.live_contexts(schedule, 2, comm.rank, m, chunks) * (DEPTH // 2) / chunks
    assert_peak(peak, kept, live + ahead, ROWS // m, passing=WIDE * WIDE)


@pytest.mark.parametrize(
    ("workers", "grid"),
    [
        (2, (2, 1, 1)),
        (2, (1, 2, 1)),
        (2, (1, 1, 2)),
        (4, (2, 2, 1)),
        (4, (2, 1, 2)),
        (4, (1, 2, 2)),
    ],
)
def test_peak_of_hybrid(comm, workers, grid):
    """Rows are divided by the first side of the grid, layers by the second, neurons by the third.

    A pair of Linears keeps its input whole and its middle in parts; the first input is the data.
    """
    data, stages, tensor = grid
    m, part = 2, WIDE // tensor
    live = costs.live_contexts("1f1b", stages, comm.rank // tensor % stages, m)
    pairs = DEPTH // 2 // stages
    cuts = [DEPTH] if stages == 2 else []
    peak = peak_of_a_step(
        lambda model: Hybrid(model, momentum(), comm, *grid, micro_batches=m, cuts=cuts)
    )
    contexts = live * (pairs - (stages == 1) + pairs / tensor)
    kept = costs.held_by_hybrid(build_wide(), cuts, grid, comm.rank, slots=1)
    assert_peak(peak, kept, contexts, ROWS // data // m, passing=WIDE * part)
