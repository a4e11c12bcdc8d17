"""Tensor parallelism, with every neuron on one rank, learns the weights of plain training."""

from collections import Counter

import numpy as np
import pytest

from bench.core.metering import Metered
from nn import SGD, AdaGrad, Adam, mlp
from nn.data.dataset import Dataset
from strategies import Sequential, TensorParallel, costs
from strategies.base import Refused
from tests.support.oracles import assert_goes_on_like, assert_trains_like, random_batches
from tests.support.small_nets import NETS


@pytest.mark.parametrize("rows", [1, 6])
@pytest.mark.parametrize("net", NETS)
def test_equals_sequential(comm, net, rows):
    """Some widths do not divide by the ranks, and some layers have fewer neurons than ranks."""
    build = NETS[net]
    parallel = TensorParallel(build(), SGD(0.1, momentum=0.9), comm)
    oracle = Sequential(build(), SGD(0.1, momentum=0.9))
    assert_trains_like(oracle, parallel, random_batches(build(), rows, steps=2), comm)


@pytest.mark.parametrize("optimizer", [Adam, AdaGrad])
def test_optimizers_see_the_right_elements(comm, optimizer):
    build = NETS["four_tanh"]
    parallel = TensorParallel(build(), optimizer(1e-2), comm)
    batches = random_batches(build(), 7, steps=5)
    assert_trains_like(Sequential(build(), optimizer(1e-2)), parallel, batches, comm)


@pytest.mark.workers(2)
def test_stays_equal_over_hundreds_of_steps(comm):
    build = NETS["four_tanh"]
    parallel = TensorParallel(build(), SGD(0.05, momentum=0.9), comm)
    oracle = Sequential(build(), SGD(0.05, momentum=0.9))
    batches = random_batches(build(), 8, steps=4) * 50
    assert_trains_like(oracle, parallel, batches, comm, tolerance=1e-9)


@pytest.mark.workers(2, 4)
def test_equals_sequential_in_float32(comm):
    def build():
        return mlp([20, 30, 25, 10], seed=2)

    parallel = TensorParallel(build(), SGD(0.1), comm)
    batches = random_batches(build(), 33, steps=5)
    assert_trains_like(Sequential(build(), SGD(0.1)), parallel, batches, comm, tolerance=1e-5)


def test_weights_are_split_and_only_row_biases_are_shared(comm, workers):
    """With sizes 6-8-5-3, Linear 1 is split by outputs, 2 and 3 (without a partner) by inputs."""
    parallel = TensorParallel(mlp([6, 8, 5, 3], dtype="float64"), SGD(0.1), comm)
    held = Counter()
    for layout in parallel.layouts:
        for block in layout:
            held.update(block.of(np.arange(parallel.length)).ravel().tolist())
    first, second, third = np.split(np.arange(parallel.length), [6 * 8 + 8, 6 * 8 + 8 + 8 * 5 + 5])
    shared = [*second[8 * 5 :], *third[5 * 3 :]]
    assert first.size == 56
    assert held == {i: workers if i in shared else 1 for i in range(parallel.length)}


def test_sends_what_the_formula_says(comm, workers):
    """Each pair sums activations forward, and all pairs but the first their gradient backward."""
    metered = Metered(comm)
    rows, (a, b, c, d, e) = 6, (7, 4, 5, 6, 3)
    parallel = TensorParallel(mlp([a, b, c, d, e], dtype="float64"), SGD(0.1), metered)
    (batch,) = random_batches(mlp([a, b, c, d, e]), rows, steps=1)
    metered.record.clear()
    parallel.step(batch)
    forward, backward = rows * c + rows * e, rows * c
    assert metered.record.sent == {"Allreduce": 8 * (forward + backward)}
    net = mlp([a, b, c, d, e], dtype="float64")
    assert metered.record.sent == costs.sent_by_tensor_parallel(net, workers, comm.rank, rows)
    assert metered.record.calls == {"Allreduce": 3}


def test_resumes_from_the_state_of_sequential_and_back(comm):
    build = NETS["three_sigmoid"]
    oracle = Sequential(build(), SGD(0.1, momentum=0.9))
    parallel = TensorParallel(build(), SGD(0.1, momentum=0.9), comm)
    assert_goes_on_like(oracle, parallel, random_batches(build(), 5, steps=4))


@pytest.mark.workers(1, 2)
def test_says_what_was_expected(comm):
    model = mlp([3, 4, 2])
    with pytest.raises(Refused, match=r"model is Dataset: TensorParallel expected nn\.Model"):
        TensorParallel(Dataset.__new__(Dataset), SGD(0.1), comm)
    with pytest.raises(TypeError, match="optimizer is float"):
        TensorParallel(model, 0.1, comm)
    with pytest.raises(TypeError, match="comm is None"):
        TensorParallel(model, SGD(0.1), None)
    with pytest.raises(TypeError, match=r"step\(\) takes an nn\.Batch"):
        TensorParallel(model, SGD(0.1), comm).step([1, 2])
