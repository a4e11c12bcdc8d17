"""ZeRO, whose ranks hold slices of the state, learns the weights of sequential training."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.core.metering import Metered
from nn import SGD, mlp
from strategies import Sequential, ZeRO, costs
from strategies.base import Refused
from tests.support.optimizers import OPTIMIZERS
from tests.support.oracles import (
    MatchedOrder,
    assert_goes_on_like,
    assert_trains_like,
    random_batches,
)
from tests.support.small_nets import NETS

every_stage = pytest.mark.parametrize("stage", [1, 2, 3])


@every_stage
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("rows", [1, 7])
def test_equals_sequential(comm, stage, optimizer, rows):
    """7 rows make uneven shards, 1 row empty ones; slices begin and end within layers."""
    build, make = NETS["four_tanh"], OPTIMIZERS[optimizer]
    parallel = ZeRO(build(), make(), comm, stage)
    assert_trains_like(Sequential(build(), make()), parallel, random_batches(build(), rows), comm)


@every_stage
@pytest.mark.parametrize("net", NETS)
def test_equals_sequential_for_every_net(comm, stage, net):
    build, make = NETS[net], OPTIMIZERS["decay"]
    parallel = ZeRO(build(), make(), comm, stage)
    batches = random_batches(build(), 6, steps=2)
    assert_trains_like(Sequential(build(), make()), parallel, batches, comm)


@every_stage
@pytest.mark.workers(1, 2)
def test_equals_the_matched_order_to_the_bit(comm, workers, stage):
    """The sum of two shards has one order."""
    build, make = NETS["four_tanh"], OPTIMIZERS["adam"]
    parallel = ZeRO(build(), make(), comm, stage)
    oracle = MatchedOrder(build(), make(), workers)
    assert_trains_like(oracle, parallel, random_batches(build(), 7), comm, tolerance=0)


@every_stage
@pytest.mark.workers(3)
def test_stays_equal_over_hundreds_of_steps(comm, stage):
    build, make = NETS["five_narrow"], OPTIMIZERS["nesterov"]
    parallel = ZeRO(build(), make(), comm, stage)
    batches = random_batches(build(), 9, steps=4) * 50
    assert_trains_like(Sequential(build(), make()), parallel, batches, comm, tolerance=1e-9)


@every_stage
@pytest.mark.workers(2, 4)
def test_equals_sequential_in_float32(comm, stage):
    def build():
        return mlp([20, 30, 10], seed=2)

    parallel = ZeRO(build(), SGD(0.1), comm, stage)
    batches = random_batches(build(), 33, steps=5)
    assert_trains_like(Sequential(build(), SGD(0.1)), parallel, batches, comm, tolerance=1e-5)


@settings(max_examples=20)
@given(
    sizes=st.lists(st.integers(1, 6), min_size=2, max_size=5),
    rows=st.integers(1, 9),
    optimizer=st.sampled_from(sorted(OPTIMIZERS)),
    stage=st.sampled_from([1, 2, 3]),
)
def test_any_net_equals_sequential(comm, sizes, rows, optimizer, stage):
    def build():
        return mlp([*sizes, 3], "tanh", "float64", seed=3)

    parallel = ZeRO(build(), OPTIMIZERS[optimizer](), comm, stage)
    oracle = Sequential(build(), OPTIMIZERS[optimizer]())
    assert_trains_like(oracle, parallel, random_batches(build(), rows, steps=2), comm)


@every_stage
def test_sends_what_the_formula_says(comm, stage):
    """The parameters twice in stage 3, except the last layer, which backward finds still there."""
    metered = Metered(comm)
    build = NETS["four_tanh"]
    parallel = ZeRO(build(), SGD(0.1), metered, stage)
    (batch,) = random_batches(build(), 7, steps=1)
    metered.record.clear()
    parallel.step(batch)
    assert metered.record.sent == costs.sent_by_zero(build(), comm.size, comm.rank, stage)


@every_stage
def test_resumes_from_the_state_of_sequential_and_back(comm, stage):
    build, make = NETS["four_tanh"], OPTIMIZERS["adam"]
    oracle, parallel = Sequential(build(), make()), ZeRO(build(), make(), comm, stage)
    assert_goes_on_like(oracle, parallel, random_batches(build(), 5, steps=4))


@pytest.mark.workers(1)
def test_says_what_was_expected(comm):
    model = mlp([3, 4, 2])
    for stage in (0, 4):
        with pytest.raises(ValueError, match=f"stage={stage}: expected from 1 to 3"):
            ZeRO(model, SGD(0.1), comm, stage=stage)
    for stage in (True, 1.0, "2", None):
        with pytest.raises(TypeError, match=f"stage={stage!r}: expected a whole number"):
            ZeRO(model, SGD(0.1), comm, stage=stage)
    ZeRO(model, SGD(0.1), comm, stage=np.int64(3))
    with pytest.raises(Refused, match=r"ZeRO expected nn\.Model"):
        ZeRO(None, SGD(0.1), comm)
