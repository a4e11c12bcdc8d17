"""The parameter server keeps its bound, and its weights are a function of its log."""

import time

import numpy as np
import pytest
import torch
from torch import nn as tnn

from nn import SGD, Adam, mlp
from nn.loss import cross_entropy
from nn.sequences import Sequences
from nn.torch.model import TorchModel
from strategies import DataParallel, ParameterServer, Sequential
from tests.support.optimizers import OPTIMIZERS
from tests.support.oracles import STEP_TOLERANCE, MatchedOrder, assert_trains_like, random_batches
from tests.support.small_nets import small_mlp

torch.set_num_threads(1)


def train(server, batches, delays=lambda rank, clock: 0.0):
    for clock, batch in enumerate(batches):
        time.sleep(delays(server.comm.rank, clock))
        server.step(batch)
    return server.weights()


def last_is_slow(rank, clock):
    """Delay one worker, so that the bound holds up all others at every clock."""
    return 0.03 if rank == last_is_slow.rank else 0.0


def at_random(rank, clock):
    return np.random.default_rng((rank, clock)).exponential(0.01) if rank else 0.0


def replay(log, n, batches, optimizer):
    """Compute the weights of a run on n ranks in one process, from its log."""
    model = small_mlp()
    versions = [model.params.copy()]
    staleness = {(worker, clock): late for worker, clock, late in log}
    assert len(staleness) == len(log) == (n - 1) * len(batches)
    for clock, batch in enumerate(batches):
        total = 0.0
        for worker in range(1, n):
            model.params[:] = versions[clock - staleness[worker, clock]]
            model.gradients(batch.shard(worker - 1, n - 1))
            total = total + model.grads
        weights = versions[-1].copy()
        optimizer.step(weights, total)
        versions.append(weights)
    return versions[-1]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("rows", [13, 2])
def test_staleness_0_equals_data_parallel(comm, optimizer, rows):
    """To rounding; and to the bit if its workers' shards are summed in rank order."""
    make = OPTIMIZERS[optimizer]
    server = ParameterServer(small_mlp(), make(), comm, staleness=0)
    parallel = DataParallel(small_mlp(), make(), comm)
    oracle = MatchedOrder(small_mlp(), make(), shards=max(comm.size - 1, 1))
    for batch in random_batches(server.model, rows, 4):
        loss = server.step(batch)
        expected = parallel.step(batch)
        assert oracle.step(batch) == pytest.approx(expected, rel=1e-14)
        if comm.rank == 0:
            assert loss == pytest.approx(expected, rel=1e-14)
        np.testing.assert_array_equal(server.weights(), oracle.weights())
        weights = parallel.weights()
        atol = STEP_TOLERANCE * np.abs(weights).max()
        np.testing.assert_allclose(server.weights(), weights, rtol=0, atol=atol)
    assert np.abs(server.weights() - small_mlp().params).max() > 1e-2
    assert all(late == 0 for _, _, late in server.log)


@pytest.mark.workers(1)
def test_a_lone_rank_is_sequential(comm):
    server = ParameterServer(small_mlp(), SGD(0.1), comm, staleness=2)
    oracle = Sequential(small_mlp(), SGD(0.1))
    assert_trains_like(oracle, server, random_batches(server.model, 7), comm, tolerance=0)


@pytest.mark.workers(3, 4)
@pytest.mark.parametrize("staleness", [0, 1, 3])
def test_staleness_reaches_its_bound_and_never_exceeds_it(comm, staleness):
    """The next test proves that the log is true."""
    last_is_slow.rank = comm.size - 1
    server = ParameterServer(small_mlp(), SGD(0.1), comm, staleness)
    train(server, random_batches(server.model, 9, steps=7), last_is_slow)
    if comm.rank == 0:
        late = np.array([late for _, _, late in server.log])
        assert late.min() >= 0
        assert late.max() == staleness


@pytest.mark.workers(2, 3, 4)
@pytest.mark.parametrize("staleness", [0, 2])
@pytest.mark.parametrize("delays", [last_is_slow, at_random])
def test_the_log_reproduces_the_weights_to_the_bit(comm, staleness, delays):
    last_is_slow.rank = comm.size - 1
    server = ParameterServer(small_mlp(), SGD(0.1, momentum=0.9), comm, staleness)
    batches = random_batches(server.model, 9, steps=8)
    weights = train(server, batches, delays)
    log = comm.bcast(server.log)
    np.testing.assert_array_equal(weights, replay(log, comm.size, batches, SGD(0.1, momentum=0.9)))
    if comm.size > 2 and staleness and delays is last_is_slow:
        synchronous = replay([(w, c, 0) for w, c, _ in log], comm.size, batches, SGD(0.1, 0.9))
        assert np.abs(weights - synchronous).max() > 1e-6, "staleness made no difference"


def test_large_messages_and_many_steps_do_not_deadlock(comm):
    """Messages are beyond any eager limit, so a send waits for its receiver."""
    model = mlp([300, 200, 10], dtype="float64")
    server = ParameterServer(model, SGD(0.01), comm, staleness=2)
    batches = random_batches(model, 8, steps=3) * 10
    weights = [train(server, batches) for _ in range(2)]
    assert all(np.isfinite(w).all() for w in weights)
    for others in comm.allgather(weights[-1]):
        np.testing.assert_array_equal(weights[-1], others)


@pytest.mark.workers(3, 4)
@pytest.mark.deadline(20)
def test_two_servers_on_one_communicator_keep_to_their_own_messages(comm):
    """The first worker asks the second server while the first still waits for the last worker."""
    last_is_slow.rank = comm.size - 1
    servers = [ParameterServer(small_mlp(), SGD(lr), comm) for lr in (0.1, 0.3)]
    alone = [Sequential(small_mlp(), SGD(lr)) for lr in (0.1, 0.3)]
    for clock, batch in enumerate(random_batches(small_mlp(), 9)):
        for server, oracle in zip(servers, alone):
            time.sleep(last_is_slow(comm.rank, clock))
            server.step(batch)
            oracle.step(batch)
    for server, oracle in zip(servers, alone):
        expected = oracle.weights()
        atol = STEP_TOLERANCE * np.abs(expected).max()
        np.testing.assert_allclose(server.weights(), expected, rtol=0, atol=atol)


def test_closes_more_than_once_and_keeps_its_weights(comm):
    server = ParameterServer(small_mlp(), SGD(0.1), comm)
    server.close()
    server.close()
    np.testing.assert_array_equal(server.weights(), small_mlp().params)
    with pytest.raises(ValueError, match="closed"):
        server.step(random_batches(server.model, 9)[0])


def language_model():
    layers = [tnn.Embedding(5, 4), tnn.Flatten(0, 1), tnn.Linear(4, 5)]
    return TorchModel(layers, dtype="float64", input_shape=(3,))


@pytest.mark.parametrize(
    ("make", "batch"),
    [
        (small_mlp, random_batches(small_mlp(), 2)[0]),
        (language_model, Sequences(np.arange(8).reshape(2, 4) % 5)),
    ],
    ids=["labels of rows", "labels of tokens"],
)
def test_losses_on_the_server_are_global_and_on_workers_their_own(comm, make, batch):
    """Each is a mean over labels."""
    server = ParameterServer(make(), SGD(0.1), comm)
    losses = np.array(comm.allgather(server.step(batch)))
    workers = max(comm.size - 1, 1)
    own = np.full(workers, np.nan)
    for k in range(min(workers, len(batch))):
        x, y = batch.part(k, workers)
        own[k] = cross_entropy(make().forward(x)[0], y, len(y))[0]
    whole = make().gradients(batch)
    np.testing.assert_allclose(losses, [whole, *own][: comm.size], rtol=1e-13)


@pytest.mark.parametrize("staleness", [0, 1])
def test_a_resumed_run_goes_on(comm, staleness):
    """With staleness 0 to the bit, since then weights depend on the steps only."""
    batches = random_batches(small_mlp(), 9, steps=6)
    whole, resumed = (ParameterServer(small_mlp(), Adam(1e-2), comm, staleness) for _ in range(2))
    train(whole, batches[:3])
    resumed.load_state(whole.state())
    np.testing.assert_array_equal(resumed.weights(), whole.weights())
    weights = train(resumed, batches[3:]), train(whole, batches[3:])
    if staleness == 0:
        np.testing.assert_array_equal(*weights)
    if comm.rank == 0 and comm.size > 1:
        assert {clock for _, clock, _ in resumed.log} == {3, 4, 5}


@pytest.mark.parametrize(("staleness", "error"), [(-1, ValueError), (0.5, TypeError)])
def test_a_wrong_staleness_is_refused(comm, staleness, error):
    with pytest.raises(error, match=f"staleness={staleness}: expected"):
        ParameterServer(small_mlp(), SGD(0.1), comm, staleness)
