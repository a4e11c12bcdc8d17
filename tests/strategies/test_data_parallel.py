"""Data parallelism, by messages and by shared memory, learns the weights of sequential training."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nn import SGD, Batch, cnn, lenet, mlp
from strategies import DataParallel, Sequential, SharedDataParallel, shared_data_parallel
from strategies.base import Refused
from tests.support.optimizers import OPTIMIZERS
from tests.support.oracles import MatchedOrder, assert_trains_like, random_batches
from tests.support.small_nets import small_mlp
from tests.support.two_nodes import TwoNodes

STRATEGIES = {
    "data_parallel": DataParallel,
    "two_buckets": partial(DataParallel, buckets=2),
    "three_buckets": partial(DataParallel, buckets=3),
    "shared": partial(SharedDataParallel, private=False),
    "private": partial(SharedDataParallel, private=True),
}
every_strategy = pytest.mark.parametrize("strategy", STRATEGIES)


@every_strategy
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("rows", [1, 7, 64])
def test_equals_sequential(comm, strategy, optimizer, rows):
    """7 rows make uneven shards, 1 row leaves some empty."""
    make = OPTIMIZERS[optimizer]
    parallel = STRATEGIES[strategy](small_mlp(), make(), comm)
    batches = random_batches(parallel.model, rows, steps=4)
    assert_trains_like(Sequential(small_mlp(), make()), parallel, batches, comm)
    parallel.close()


@every_strategy
@pytest.mark.parametrize(
    "build",
    [
        lambda: cnn(input_shape=(1, 10, 10), dtype="float64"),
        lambda: lenet(input_shape=(1, 14, 14), dtype="float64"),
        lambda: mlp([5, 4, 3, 3], activation="sigmoid", dtype="float64"),
        lambda: mlp([5, 4, 3, 3], activation="tanh", dtype="float64"),
    ],
    ids=["cnn", "lenet", "sigmoid", "tanh"],
)
def test_equals_sequential_for_every_net(comm, strategy, build):
    parallel = STRATEGIES[strategy](build(), SGD(0.1, momentum=0.9), comm)
    batches = random_batches(parallel.model, 6, steps=2)
    assert_trains_like(Sequential(build(), SGD(0.1, momentum=0.9)), parallel, batches, comm)
    parallel.close()


@every_strategy
def test_stays_equal_over_hundreds_of_steps(comm, strategy):
    parallel = STRATEGIES[strategy](small_mlp(), SGD(0.05, momentum=0.9), comm)
    batches = random_batches(parallel.model, 9, steps=4) * 75
    oracle = Sequential(small_mlp(), SGD(0.05, momentum=0.9))
    assert_trains_like(oracle, parallel, batches, comm, tolerance=1e-9)
    parallel.close()


@every_strategy
def test_equals_sequential_in_float32(comm, strategy):
    def build():
        return mlp([20, 30, 10], seed=2)

    parallel = STRATEGIES["shared" if strategy == "three_buckets" else strategy](
        build(), SGD(0.1), comm
    )
    batches = random_batches(parallel.model, 33, steps=5)
    assert_trains_like(Sequential(build(), SGD(0.1)), parallel, batches, comm, tolerance=1e-5)
    parallel.close()


@pytest.mark.parametrize("rows", [1, 7, 64])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_shared_equals_matched_order_to_the_bit(comm, optimizer, rows):
    make = OPTIMIZERS[optimizer]
    parallel = SharedDataParallel(small_mlp(), make(), comm)
    batches = random_batches(parallel.model, rows, steps=4)
    oracle = MatchedOrder(small_mlp(), make(), shards=comm.size)
    assert_trains_like(oracle, parallel, batches, comm, tolerance=0)
    parallel.close()


@pytest.mark.parametrize("rows", [1, 7])
def test_private_parameters_change_no_bit(comm, rows):
    private, shared = (
        SharedDataParallel(small_mlp(), OPTIMIZERS["adam"](), comm, private=private)
        for private in (True, False)
    )
    for batch in random_batches(shared.model, rows, steps=4):
        assert private.step(batch) == shared.step(batch)
        np.testing.assert_array_equal(private.weights(), shared.weights())
    private.close()
    shared.close()


@pytest.mark.workers(1, 2)
@pytest.mark.parametrize("strategy", ["data_parallel", "two_buckets"])
def test_allreduce_of_two_equals_matched_order_to_the_bit(comm, strategy):
    """The order of two does not matter, since a + b = b + a; for more, MPI promises no order."""
    parallel = STRATEGIES[strategy](small_mlp(), SGD(0.1, momentum=0.9), comm)
    batches = random_batches(parallel.model, 7, steps=4)
    oracle = MatchedOrder(small_mlp(), SGD(0.1, momentum=0.9), shards=comm.size)
    assert_trains_like(oracle, parallel, batches, comm, tolerance=0)


@given(
    hidden=st.lists(st.integers(1, 9), max_size=3),
    activation=st.sampled_from(["relu", "sigmoid", "tanh"]),
    rows=st.integers(1, 20),
    optimizer=st.sampled_from(sorted(OPTIMIZERS)),
    strategy=st.sampled_from(sorted(STRATEGIES)),
    seed=st.integers(0, 99),
)
def test_any_net_any_batch(comm, hidden, activation, rows, optimizer, strategy, seed):
    if strategy.endswith("buckets"):
        hidden = [*hidden, 3, 3]  # three layers with parameters at least

    def build():
        return mlp([4, *hidden, 3], activation, "float64", seed)

    parallel = STRATEGIES[strategy](build(), OPTIMIZERS[optimizer](), comm)
    try:
        batches = random_batches(parallel.model, rows, steps=2, seed=seed)
        oracle = Sequential(build(), OPTIMIZERS[optimizer]())
        assert_trains_like(oracle, parallel, batches, comm)
    finally:
        parallel.close()


def test_buckets_cover_every_layer_once(comm):
    """Messages larger than any eager limit, and as many buckets as layers."""
    model = mlp([300, 200, 100, 50], dtype="float64")
    parallel = DataParallel(model, SGD(0.1), comm, buckets=3)
    oracle = Sequential(mlp([300, 200, 100, 50], dtype="float64"), SGD(0.1))
    assert_trains_like(oracle, parallel, random_batches(model, 10, steps=2), comm)


@pytest.mark.parametrize("private", [False, True])
def test_closing_keeps_the_model(comm, private):
    model = small_mlp()
    strategy = SharedDataParallel(model, SGD(0.1), comm, private=private)
    strategy.step(random_batches(model, 5)[0])
    weights = strategy.weights()
    strategy.close()
    strategy.close()
    np.testing.assert_array_equal(model.params, weights)
    model.params[:] = 0  # private memory again: writing to it must not crash


@pytest.mark.parametrize("private", [False, True])
def test_a_state_comes_back(comm, private):
    """And what every rank sets in the model between two steps is what the next step begins with."""
    strategy = SharedDataParallel(small_mlp(), SGD(0.1, momentum=0.9), comm, private=private)
    batches = random_batches(strategy.model, 5, steps=3)
    strategy.step(batches[0])
    state = strategy.state()
    strategy.step(batches[1])
    expected = strategy.weights()
    strategy.load_state(state)
    strategy.step(batches[1])
    np.testing.assert_array_equal(strategy.weights(), expected)
    comm.Barrier()
    strategy.model.params[:] = 0.25
    comm.Barrier()
    strategy.optimizer.lr = 0.0
    strategy.step(batches[2])
    np.testing.assert_array_equal(strategy.weights(), np.full(len(expected), 0.25))
    strategy.close()


@pytest.mark.parametrize("far", [False, True])
def test_ranks_that_share_no_cache_compute_with_copies(comm, monkeypatch, far):
    monkeypatch.setattr(shared_data_parallel, "share_no_cache", lambda *_: far)
    parallel = SharedDataParallel(small_mlp(), SGD(0.1), comm)
    assert parallel.private == far
    assert np.shares_memory(parallel.model.params, parallel._shared) != far
    parallel.close()


def test_finding_out_leaves_nothing_in_the_gradients(comm):
    parallel = SharedDataParallel(mlp([90, 60, 10]), SGD(0.1), comm)
    assert comm.allgather(parallel.private) == [parallel.private] * comm.size
    assert not any(row.any() for row in parallel._rows)
    comm.Barrier()
    parallel.close()


def test_a_closed_strategy_says_so(comm):
    strategy = SharedDataParallel(small_mlp(), SGD(0.1), comm)
    state = strategy.state()
    strategy.close()
    with pytest.raises(ValueError, match="closed"):
        strategy.step(random_batches(strategy.model, 5)[0])
    with pytest.raises(ValueError, match="closed"):
        strategy.load_state(state)


@pytest.mark.workers(2, 3)
@pytest.mark.parametrize("strategy", [DataParallel, SharedDataParallel])
def test_models_that_differ_between_ranks_are_refused(comm, strategy):
    for model in (mlp([3, 2], seed=comm.rank), mlp([3, 2 + comm.rank])):
        with pytest.raises(ValueError, match="models differ"):
            strategy(model, SGD(0.1), comm)


def test_sequential_training_waits_for_nobody(comm):
    if comm.rank == 0:
        sequential = Sequential(small_mlp(), SGD(0.1), comm)
        sequential.step(random_batches(sequential.model, 5)[0])
        sequential.close()


def test_weights_are_a_copy(comm):
    for make in (DataParallel, SharedDataParallel):
        strategy = make(small_mlp(), SGD(0.1), comm)
        kept = strategy.weights()
        expected = kept.copy()
        strategy.step(random_batches(strategy.model, 5)[0])
        np.testing.assert_array_equal(kept, expected)
        strategy.close()


@pytest.mark.workers(2)
def test_shared_memory_across_nodes_is_refused(comm):
    with pytest.raises(Refused, match="more than one node"):
        SharedDataParallel(small_mlp(), SGD(0.1), TwoNodes(comm))


def test_private_is_true_or_false(comm):
    with pytest.raises(TypeError, match="private='yes': expected True, False or None"):
        SharedDataParallel(small_mlp(), SGD(0.1), comm, private="yes")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((None, SGD(0.1)), TypeError, "expected nn.Model"),
        ((small_mlp(), 0.1), TypeError, "expected nn.SGD"),
        ((small_mlp(), SGD(0.1), None), TypeError, "intracommunicator"),
    ],
)
@pytest.mark.parametrize("strategy", [DataParallel, SharedDataParallel])
def test_wrong_arguments_say_what_was_expected(comm, strategy, arguments, error, message):
    with pytest.raises(error, match=message):
        strategy(*arguments, *([comm] if len(arguments) == 2 else []))


@pytest.mark.parametrize(
    ("buckets", "error", "message"),
    [
        (0, ValueError, "1 or more"),
        (4, Refused, "from 1 to 3"),
        (1.0, TypeError, "whole number"),
        (True, TypeError, "whole number"),
    ],
)
def test_a_wrong_number_of_buckets_is_refused(comm, buckets, error, message):
    with pytest.raises(error, match=message):
        DataParallel(small_mlp(), SGD(0.1), comm, buckets=buckets)


def test_numpys_numbers_of_buckets_are_numbers(comm):
    counts = [DataParallel(small_mlp(), SGD(0.1), comm, n)._starts for n in (2, np.int64(2))]
    assert counts[0] == counts[1]


def test_a_wrong_step_is_refused(comm):
    strategy = DataParallel(small_mlp(), SGD(0.1), comm)
    with pytest.raises(TypeError, match=r"takes an nn\.Batch"):
        strategy.step((np.zeros((2, 6)), np.zeros(2, int)))
    with pytest.raises(ValueError, match="0 rows"):
        strategy.step(Batch(np.zeros((0, 6)), np.zeros(0, int)))


def test_a_dtype_that_is_not_sent_is_refused(comm):
    model = small_mlp()
    model.bind(model.params.astype("float16"), model.grads.astype("float16"))
    with pytest.raises(Refused, match="float32, float64"):
        DataParallel(model, SGD(0.1), comm)


@pytest.mark.workers(1)
def test_who_expects_an_error_of_value_or_of_type_hears_of_a_refusal():
    for kind in (ValueError, TypeError):
        with pytest.raises(kind, match="not with this model"):
            raise Refused("not with this model")


@pytest.mark.workers(1)
@pytest.mark.parametrize("statistics", [{"mean": 1.0}, lambda: "of something", np.ones(3)])
def test_what_a_model_of_ones_own_calls_statistics_is_its_own(comm, statistics):
    model = small_mlp()
    model.statistics = statistics
    strategy = DataParallel(model, SGD(0.1), comm)
    strategy.load_state(strategy.state())
    np.testing.assert_array_equal(strategy.weights(), small_mlp().params)
    assert model.statistics is statistics
