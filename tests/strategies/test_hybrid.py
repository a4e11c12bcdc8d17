"""Grids of data, pipeline and tensor parallelism learn the weights of sequential training."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mpi4py import MPI

from nn import Adam, mlp
from strategies import Hybrid, Sequential
from strategies.base import Refused
from strategies.sharding.schedules import SCHEDULES
from tests.support.optimizers import momentum
from tests.support.oracles import MatchedOrder, assert_trains_like, random_batches
from tests.support.small_nets import DEEP, NETS

GRIDS = [
    (workers, grid)
    for workers in (1, 2, 3, 4)
    for grid in itertools.product(range(1, workers + 1), repeat=3)
    if np.prod(grid) == workers
]
every_grid = pytest.mark.parametrize(
    ("workers", "grid"), GRIDS, ids=["x".join(map(str, grid)) for _, grid in GRIDS]
)


@every_grid
@pytest.mark.parametrize("net", DEEP)
def test_equals_sequential(comm, grid, net):
    """7 rows make uneven shards of uneven micro-batches."""
    build = NETS[net]
    parallel = Hybrid(build(), momentum(), comm, *grid, micro_batches=2)
    oracle = Sequential(build(), momentum())
    assert_trains_like(oracle, parallel, random_batches(build(), 7, steps=2), comm)
    parallel.close()


@every_grid
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_schedule_on_every_grid(comm, grid, schedule):
    """Small shards: of 1 row, or of 5 rows in 2 micro-batches over all copies; with Adam.

    With 3 micro-batches of 2 rows, some are empty in every copy.
    """

    def build():
        """Build nine layers: two interleaved stages on each of four ranks need eight."""
        return mlp([6, 5, 9, 3, 5, 4], activation="tanh", dtype="float64", seed=1)

    for micro_batches, rows in ((1, 1), (2, 5), (3, 2)):
        parallel = Hybrid(
            build(), Adam(1e-2), comm, *grid, micro_batches=micro_batches, schedule=schedule
        )
        oracle = Sequential(build(), Adam(1e-2))
        assert_trains_like(oracle, parallel, random_batches(build(), rows, steps=2), comm)
        parallel.close()


class MatchedGrid(MatchedOrder):
    """Adds micro-batches within a shard, then the shards."""

    def __init__(self, model, optimizer, data, micro_batches):
        super().__init__(model, optimizer, data)
        self.inner = MatchedOrder(model, optimizer, micro_batches)

    def gradients(self, batch):
        shards = [batch.shard(k, self.shards) for k in range(self.shards)]
        losses, parts = [], []
        for shard in shards:
            losses.append(self.inner.gradients(shard))
            parts.append(self.model.grads.copy())
        self.model.grads[:] = sum(parts[1:], parts[0])
        return sum(losses)


@pytest.mark.parametrize(
    ("workers", "data", "stages"), [(2, 2, 1), (2, 1, 2), (3, 1, 3), (4, 2, 2), (4, 1, 4)]
)
@pytest.mark.parametrize("micro_batches", [1, 3])
def test_equals_the_matched_order_to_the_bit(comm, data, stages, micro_batches):
    """This holds without tensor parallelism, and for up to two shards, whose sum has one order."""
    build = NETS["four_tanh"]
    parallel = Hybrid(
        build(), momentum(), comm, data=data, stages=stages, micro_batches=micro_batches
    )
    oracle = MatchedGrid(build(), momentum(), data, micro_batches)
    assert_trains_like(oracle, parallel, random_batches(build(), 9), comm, tolerance=0)
    parallel.close()


@st.composite
def cases(draw, workers):
    """Draw a net, a grid, cuts, a schedule, micro-batches and rows that fit together."""
    grid = draw(st.sampled_from([grid for n, grid in GRIDS if n == workers]))
    sizes = draw(st.lists(st.integers(1, 7), min_size=3, max_size=6))
    sizes[-1] += 1
    layers = 2 * len(sizes) - 3
    stages = min(grid[1], layers)
    if stages < grid[1]:
        grid = (workers, 1, 1)
        stages = 1
    schedule = draw(st.sampled_from(SCHEDULES))
    chunks = 1
    if schedule == "interleaved":
        chunks = draw(st.integers(1, layers // stages))
    cuts = sorted(
        draw(
            st.lists(
                st.integers(1, layers - 1),
                unique=True,
                min_size=stages * chunks - 1,
                max_size=stages * chunks - 1,
            )
        )
        if stages * chunks > 1
        else []
    )
    rows = draw(st.integers(1, 12))
    micro_batches = draw(st.integers(1, -(-rows // grid[0])))
    activation = draw(st.sampled_from(["relu", "sigmoid", "tanh"]))
    return sizes, activation, grid, rows, micro_batches, schedule, chunks, cuts


@settings(max_examples=25)
@given(data=st.data())
def test_any_combination_equals_sequential(comm, workers, data):
    case = data.draw(cases(workers))
    sizes, activation, grid, rows, micro_batches, schedule, chunks, cuts = case

    def build():
        return mlp(sizes, activation, "float64", seed=3)

    parallel = Hybrid(
        build(),
        momentum(),
        comm,
        *grid,
        micro_batches=micro_batches,
        schedule=schedule,
        cuts=cuts,
        chunks=chunks,
    )
    oracle = Sequential(build(), momentum())
    assert_trains_like(oracle, parallel, random_batches(build(), rows, steps=2), comm)
    parallel.close()


@pytest.mark.workers(4)
def test_resumes_on_another_grid(comm):
    build = NETS["four_tanh"]
    batches = random_batches(build(), 6, steps=3)
    oracle = Sequential(build(), momentum())
    strategies = [
        Hybrid(build(), momentum(), comm, *grid, micro_batches=2)
        for grid in ((2, 2, 1), (1, 2, 2), (1, 1, 4))
    ]
    state = oracle.state()
    for strategy, batch in zip(strategies, batches):
        oracle.step(batch)
        strategy.load_state(state)
        strategy.step(batch)
        state = strategy.state()
    np.testing.assert_allclose(state["params"], oracle.weights(), rtol=0, atol=1e-13)
    for strategy in strategies:
        strategy.close()


@pytest.mark.workers(4)
def test_frees_its_communicators(comm):
    parallel = Hybrid(NETS["two"](), momentum(), comm, 2, 2, 1)
    parallel.close()
    parallel.close()
    assert parallel.weights().size == 57
    assert all(group == MPI.COMM_NULL for group in parallel._groups)
    with pytest.raises(ValueError, match="closed"):
        parallel.step(random_batches(NETS["two"](), 4, steps=1)[0])


@pytest.mark.workers(2)
def test_says_what_was_expected(comm):
    def hybrid(**arguments):
        return Hybrid(NETS["three_sigmoid"](), momentum(), comm, **arguments)

    with pytest.raises(ValueError, match="data=1 x stages=1 x tensor=1 is a grid of 1 ranks"):
        hybrid()
    with pytest.raises(ValueError, match="data=3 x stages=1 x tensor=2 is a grid of 6 ranks: exp"):
        hybrid(data=3, tensor=2)
    with pytest.raises(ValueError, match="stages=0: expected 1 or more"):
        hybrid(data=2, stages=0)
    for tensor in (2.0, True):
        with pytest.raises(TypeError, match=f"tensor={tensor}: expected a whole number"):
            hybrid(tensor=tensor)
    hybrid(data=np.int64(2), micro_batches=np.int64(1)).close()
    with pytest.raises(Refused, match="2 stages and a net of 1 layers"):
        Hybrid(mlp([3, 2]), momentum(), comm, stages=2)
