"""Every strategy sends exactly what its formula says, whatever the net."""

from collections import Counter
from functools import partial

import pytest

from bench.core.metering import Metered
from nn import SGD, Adam
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
from tests.support.oracles import random_batches
from tests.support.small_nets import DEEP, NETS

ROWS = 7

every_net = pytest.mark.parametrize("net", NETS)


def sent(comm, make, net, optimizer=None):
    """Return the bytes that this rank sends in the second step, by verb."""
    metered = Metered(comm)
    strategy = make(NETS[net](), optimizer or SGD(0.1), metered)
    first, second = random_batches(NETS[net](), ROWS, steps=2)
    strategy.step(first)
    metered.record.clear()
    strategy.step(second)
    counted = Counter(metered.record.sent)
    strategy.close()
    return counted


@every_net
def test_data_parallel(comm, net):
    assert sent(comm, DataParallel, net) == costs.sent_by_data_parallel(NETS[net]())


@pytest.mark.workers(2)
@pytest.mark.parametrize("strategy", [Sequential, SharedDataParallel, Hogwild])
def test_strategies_that_send_nothing(comm, strategy):
    assert sent(comm, strategy, "four_tanh") == Counter()


@pytest.mark.parametrize("stage", [1, 2, 3])
@every_net
def test_zero(comm, net, stage):
    found = sent(comm, lambda *a: ZeRO(*a, stage), net)
    assert found == costs.sent_by_zero(NETS[net](), comm.size, comm.rank, stage)


@every_net
def test_tensor_parallel(comm, net):
    expected = costs.sent_by_tensor_parallel(NETS[net](), comm.size, comm.rank, ROWS)
    assert sent(comm, TensorParallel, net) == expected


@pytest.mark.parametrize("net", DEEP)
def test_pipeline(comm, workers, net):
    cuts = [1, 2, 4][: workers - 1]
    found = sent(comm, lambda *a: Pipeline(*a, 3, cuts=cuts), net)
    assert found == costs.sent_by_pipeline(NETS[net](), cuts, workers, comm.rank, ROWS)


@pytest.mark.parametrize(
    ("workers", "grid"),
    [
        (1, (1, 1, 1)),
        (2, (2, 1, 1)),
        (2, (1, 1, 2)),
        (3, (1, 3, 1)),
        (4, (1, 2, 2)),
        (4, (2, 1, 2)),
    ],
    ids=str,
)
@pytest.mark.parametrize("net", DEEP)
def test_hybrid(comm, net, grid):
    cuts = [2, 4][: grid[1] - 1]
    found = sent(comm, lambda *a: Hybrid(*a, *grid, micro_batches=2, cuts=cuts), net)
    assert found == costs.sent_by_hybrid(NETS[net](), cuts, grid, comm.rank, ROWS)


@pytest.mark.parametrize(("make", "slots"), [(lambda: SGD(0.1), 0), (Adam, 2)], ids=["sgd", "adam"])
def test_local_sgd(comm, make, slots):
    """The second of two steps ends a period of two, but not one of three."""
    found = [sent(comm, partial(LocalSGD, period=period), "two", make()) for period in (2, 3)]
    assert found == [costs.sent_by_local_sgd(NETS["two"](), slots), Counter()]


def test_parameter_server(comm, workers):
    """Count two steps: in the first, a fast worker may be sent the weights of the second."""
    metered = Metered(comm)
    strategy = ParameterServer(NETS["two"](), SGD(0.1), metered)
    metered.record.clear()
    for batch in random_batches(NETS["two"](), ROWS, steps=2):
        strategy.step(batch)
    expected = costs.sent_by_parameter_server(NETS["two"](), workers, comm.rank)
    assert metered.record.sent == expected + expected
    strategy.close()


@pytest.mark.parametrize("k", [3, 10**6])
def test_top_k(comm, k):
    found = sent(comm, lambda *a: CompressedDataParallel(*a, TopK(k)), "two")
    assert found == costs.sent_by_top_k(NETS["two"](), k)


@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("net", ["four_tanh", "cnn"])
def test_power_sgd(comm, net, rank):
    found = sent(comm, lambda *a: CompressedDataParallel(*a, PowerSGD(rank)), net)
    assert found == costs.sent_by_power_sgd(NETS[net](), rank)
