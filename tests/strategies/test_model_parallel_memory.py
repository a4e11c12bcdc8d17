"""What each rank holds and what it takes at most, measured by tracing allocations, by the formulas.

Exactly between steps; within a step to a few arrays of activations and Python's own objects.
"""

import contextlib
import gc
import tracemalloc
from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
import pytest

from nn import SGD, Adam, mlp
from nn.batch import bounds
from strategies import Hybrid, Pipeline, TensorParallel, ZeRO
from strategies.sharding.schedules import SCHEDULES
from tests.support.oracles import random_batches

SIZES = [6, 9, 7, 8, 4]
N = sum(b * (a + 1) for a, b in pairwise(SIZES))
LARGEST = 7 * (9 + 1)
LINE = 64 // 8
"""Elements of a cache line, which DataParallel has in front of its gradient, for the loss."""


def build():
    return mlp(SIZES, "tanh", "float64", seed=1)


@contextlib.contextmanager
def allocated() -> Iterator[Callable[[], int]]:
    """Counts the elements (of 8 bytes) of numpy arrays made within it that are still alive.

    Arrays below a dozen elements are left out: losses and counts, not what grows with a net.
    """
    gc.collect()
    tracemalloc.start()
    numpy_only = tracemalloc.DomainFilter(True, np.lib.tracemalloc_domain)

    def count() -> int:
        gc.collect()
        traces = tracemalloc.take_snapshot().filter_traces([numpy_only]).traces
        return sum(trace.size for trace in traces if trace.size >= 12 * 8) // 8

    try:
        yield count
    finally:
        tracemalloc.stop()


def held_after_two_steps(make: Callable) -> int:
    """Elements that a strategy holds between steps: parameters, gradients, optimizer state."""
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
    lo, hi = bounds(comm.rank, workers, N)
    own = hi - lo
    params = own + LARGEST if stage == 3 else N
    grads = N if stage == 1 else own + LARGEST
    held = held_after_two_steps(lambda model: ZeRO(model, optimizer(), comm, stage))
    assert held == params + grads + states * own


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_tensor_parallel(comm, workers):
    """Linear 1 and 3 split by outputs, 2 and 4 by inputs with a whole bias; Adam keeps two."""

    def part(total):
        lo, hi = bounds(comm.rank, workers, total)
        return hi - lo

    a, b, c, d, e = SIZES
    own = part(b) * (a + 1) + c * part(b) + c + part(d) * (c + 1) + e * part(d) + e
    held = held_after_two_steps(lambda model: TensorParallel(model, Adam(1e-2), comm))
    assert held == 4 * own


def of_layers(lo, hi):
    return build().offsets[hi] - build().offsets[lo]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.workers(2)
def test_pipeline(comm, schedule):
    cuts = [1, 3, 5] if schedule == "interleaved" else [3]
    stages = list(pairwise([0, *cuts, 7]))
    own = sum(of_layers(*stage) for stage in stages[comm.rank :: 2])
    held = held_after_two_steps(lambda model: Pipeline(model, Adam(1e-2), comm, 2, schedule, cuts))
    assert held == 4 * own


@pytest.mark.workers(4)
def test_hybrid(comm):
    """Two copies of two stages: half of the layers each, and a line for the loss."""
    own = of_layers(0, 3) if comm.rank % 2 == 0 else of_layers(3, 7)
    held = held_after_two_steps(
        lambda model: Hybrid(model, Adam(1e-2), comm, 2, 2, 1, cuts=[3], micro_batches=2)
    )
    assert held == 4 * own + LINE


def memory_of(contexts) -> dict[int, int]:
    """Bytes of the distinct arrays that contexts keep alive, views counted as what they view."""
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
    """A live micro-batch keeps the input of its stage and what each of its Tanhs made of it.

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
    expected = {
        "naive": 1,
        "gpipe": m,
        "1f1b": min(m, workers - comm.rank),
        "interleaved": min(2 * m, 2 * workers - comm.rank),
    }[schedule]
    assert most_contexts == expected
    # The input of a stage is one array more where it came from another rank: not in the first
    # stage, which has its share of rank 0's contexts, and not on a single rank.
    received = expected - (expected // chunks if comm.rank == 0 else 0) if workers > 1 else 0
    assert most_bytes == (expected * tanhs + received) * rows * width * 8


WIDE = 256
DEPTH = 8
ROWS = 12
LAYER = WIDE * (WIDE + 1)
"""Parameters of one of the equal layers: more than all activations, so that one too many shows."""

PASSING = 6
"""Arrays of activations or their gradients that exist at once but are no contexts of a backward."""

PYTHON = 32 * 1024
"""Bytes for what is not arrays: layers, communicators, views."""


def build_wide():
    return mlp([WIDE] * (DEPTH + 1), "tanh", "float64", seed=1)


def momentum():
    """Keeps one vector, and computes its update in memory that is there already."""
    return SGD(0.1, momentum=0.9)


def peak_of_a_step(make: Callable) -> int:
    """Most bytes at any time of the second step, by which all that is kept has been allocated."""
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
    """Kept and passing: elements; `contexts`: arrays of `rows` rows that wait for backward."""
    array = rows * WIDE * 8
    assert 8 * kept <= peak <= 8 * (kept + passing) + (contexts + PASSING) * array + PYTHON


@pytest.mark.parametrize("workers", [2, 3])
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_peak_of_zero(comm, workers, stage):
    """Stage 3 never has more than one layer at hand besides its own slice."""
    lo, hi = bounds(comm.rank, workers, DEPTH * LAYER)
    own, whole = hi - lo, DEPTH * LAYER
    params = own + LAYER if stage == 3 else whole
    grads = whole if stage == 1 else own + LAYER
    peak = peak_of_a_step(lambda model: ZeRO(model, momentum(), comm, stage))
    assert_peak(peak, params + grads + own, DEPTH - 1, -(-ROWS // workers))


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_peak_of_tensor_parallel(comm, workers):
    """All rows on every rank, of every second activation only its part."""
    column = (WIDE + 1) * (WIDE // workers)
    row = WIDE * (WIDE // workers) + WIDE
    peak = peak_of_a_step(lambda model: TensorParallel(model, momentum(), comm))
    contexts = 3 + 4 / workers
    assert_peak(peak, 3 * (DEPTH // 2) * (column + row), contexts, ROWS)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.workers(2)
def test_peak_of_pipeline(comm, schedule):
    """Half of the layers, and the product of one weight gradient before it is added to the sum."""
    m = 4
    live = {
        "naive": 1,
        "gpipe": m,
        "1f1b": min(m, 2 - comm.rank),
        "interleaved": min(2 * m, 4 - comm.rank) / 2,  # of half of the rank's layers each
    }[schedule]
    cuts, ahead = [DEPTH], 0
    if schedule == "interleaved":
        cuts = [DEPTH // 2, DEPTH, 3 * DEPTH // 2]
        ahead = 2  # gradients under way: one rank may be 2P - 1 backwards before another, not P - 1
    peak = peak_of_a_step(lambda model: Pipeline(model, momentum(), comm, m, schedule, cuts))
    kept = 3 * DEPTH // 2 * LAYER
    assert_peak(peak, kept, live * (DEPTH // 2) + ahead, ROWS // m, passing=WIDE * WIDE)


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
    live = min(m, stages - comm.rank // tensor % stages)
    pairs = DEPTH // 2 // stages
    column, row = part * (WIDE + 1), WIDE * part + WIDE
    cuts = [DEPTH] if stages == 2 else []
    peak = peak_of_a_step(
        lambda model: Hybrid(model, momentum(), comm, *grid, micro_batches=m, cuts=cuts)
    )
    contexts = live * (pairs - (stages == 1) + pairs / tensor)
    kept = 3 * pairs * (column + row) + LINE
    assert_peak(peak, kept, contexts, ROWS // data // m, passing=WIDE * part)
