"""Tensor parallelism splits the blocks of GPT-2 by heads and neurons, and trains the same net."""

import copy
from functools import cache

import numpy as np
import pytest

from bench.core.metering import Metered
from nn import SGD, AdamW, Batch
from nn.sequences import Sequences
from strategies import Hybrid, Sequential, TensorParallel, costs
from tests.support.oracles import assert_goes_on_like, assert_trains_like

torch = pytest.importorskip("torch")

from nn.torch.block import TorchBlock  # noqa: E402
from nn.torch.gpt2 import gpt2  # noqa: E402
from nn.torch.model import TorchModel  # noqa: E402

WORDS, CONTEXT, ROWS = 11, 6, 5
BLOCK = 12 * 12 * 12 + 13 * 12  # parameters of a block of width 12


def model(*arguments, **options) -> TorchModel:
    """Build a GPT-2 of two blocks whose heads 2 and 4 ranks cannot share out evenly."""
    return copy.deepcopy(_built(*arguments, **options))  # which takes a tenth of the time


@cache
def _built(heads: int = 3, tied: bool = True, dtype: str = "float64", **more) -> TorchModel:
    def net():
        return gpt2(2, heads, 12, WORDS, CONTEXT, tied)

    built = TorchModel(net, dtype=dtype, input_shape=(CONTEXT,), **more)
    rng = np.random.default_rng(1)
    # Biases begin at 0 and weights small, where much that is wrong would not show.
    built.params[:] += rng.normal(0, 0.2, len(built.params))
    return built


def batches(steps: int = 3, rows: int = ROWS) -> list[Batch]:
    rng = np.random.default_rng(0)
    return [Sequences(rng.integers(0, WORDS, (rows, CONTEXT + 1))) for _ in range(steps)]


@pytest.mark.workers(1, 2, 3, 4)
@pytest.mark.parametrize(("heads", "tied"), [(1, True), (3, True), (3, False)])
def test_equals_sequential(comm, heads, tied):
    """With one head, or three for four ranks, some ranks have none."""

    def sgd():
        return SGD(0.1, momentum=0.9, weight_decay=0.1)

    parallel = TensorParallel(model(heads, tied), sgd(), comm)
    assert_trains_like(Sequential(model(heads, tied), sgd()), parallel, batches(), comm)


@pytest.mark.workers(2, 3)
def test_clips_by_the_norm_of_the_whole_gradient(comm):
    groups = [("*.bias", {"weight_decay": 0})]

    def sgd():  # AdamW would move as far without the clipping
        return SGD(0.1, weight_decay=0.1, clip_norm=0.3, groups=groups)

    parallel, oracle = TensorParallel(model(), sgd(), comm), Sequential(model(), sgd())
    assert_trains_like(oracle, parallel, batches(), comm)
    assert oracle.grad_norm() > 0.3
    assert parallel.grad_norm() == pytest.approx(oracle.grad_norm(), rel=1e-12)


@pytest.mark.workers(2)
def test_resumes_from_the_state_of_sequential_and_back(comm):
    parallel = TensorParallel(model(), SGD(0.1, momentum=0.9), comm)
    oracle = Sequential(model(), SGD(0.1, momentum=0.9))
    assert_goes_on_like(oracle, parallel, batches(4))


@pytest.mark.workers(1, 2, 3, 4)
def test_sends_and_holds_what_the_formulas_say(comm, workers):
    metered = Metered(comm)
    parallel = TensorParallel(model(), SGD(0.1), metered)
    first, second = batches(2)
    parallel.step(first)
    metered.record.clear()
    parallel.step(second)
    assert metered.record.sent == {"Allreduce": 8 * ROWS * CONTEXT * 12 * 2 * 4}
    assert metered.record.calls == {"Allreduce": 2 * 4}
    expected = costs.sent_by_tensor_parallel(model(), workers, comm.rank, ROWS)
    assert metered.record.sent == expected
    held = parallel.model.params.nbytes + parallel.model.grads.nbytes
    assert held == costs.held_by_tensor_parallel(model(), workers, comm.rank, slots=0)
    # Norms and the biases behind sums are on every rank; all else of a block is shared out.
    everywhere = parallel.length - 2 * (BLOCK - 6 * 12)
    total = comm.allreduce(len(parallel.model.params))
    assert total == workers * everywhere + 2 * (BLOCK - 6 * 12)


@pytest.mark.workers(4)
@pytest.mark.parametrize("grid", [(2, 1, 2), (1, 2, 2)], ids=str)
def test_a_grid_sends_and_holds_what_the_formulas_say(comm, grid):
    metered = Metered(comm)
    cuts = [2][: grid[1] - 1]
    parallel = Hybrid(model(), SGD(0.1), metered, *grid, micro_batches=2, cuts=cuts)
    assert_trains_like(Sequential(model(), SGD(0.1)), parallel, batches(), comm)
    metered.record.clear()
    parallel.step(*batches(1))
    sent = costs.sent_by_hybrid(model(), cuts, grid, comm.rank, ROWS)
    assert metered.record.sent == sent
    held = parallel.model.params.nbytes + parallel._data._buffer.nbytes
    assert held == costs.held_by_hybrid(model(), cuts, grid, comm.rank, slots=0)
    parallel.close()


@pytest.mark.workers(2)
def test_parts_and_micro_batches_add_up_to_the_step(comm):
    def adam():
        return AdamW(1e-3, clip_norm=1.0)

    parts = TensorParallel(model(), adam(), comm, accumulate=3)
    grid = Hybrid(model(), adam(), comm, 1, 1, 2, micro_batches=2)
    for strategy in (parts, grid):
        assert_trains_like(Sequential(model(), adam()), strategy, batches(rows=7), comm)
    grid.close()


@pytest.mark.workers(2)
def test_mixed_precision_sums_in_float32(comm):
    """Sums of products that were rounded to bfloat16 differ from the whole by a part of 2**-8."""
    parallel = TensorParallel(model(dtype="float32", compute="bfloat16"), SGD(0.1), comm)
    oracle = Sequential(model(dtype="float32", compute="bfloat16"), SGD(0.1))
    (batch,) = batches(1)
    assert parallel.step(batch) == pytest.approx(oracle.step(batch), rel=2**-6)
    moved = oracle.weights() - model(dtype="float32").params
    difference = np.abs(parallel.weights() - oracle.weights()).max()
    assert difference < 2**-5 * np.abs(moved).max()


@pytest.mark.workers(2)
def test_what_is_no_plain_block_stays_whole(comm):
    """A hook, a frozen weight, and a part of another class would be lost in a part."""

    class Doubled(torch.nn.GELU):
        def forward(self, x):
            return 2 * super().forward(x)

    def build(change):
        torch.manual_seed(0)
        net = gpt2(2, 3, 12, WORDS, CONTEXT).double()
        change(net[1])
        return TorchModel(net, input_shape=(CONTEXT,))

    def hook(block):
        block.attn.register_forward_hook(lambda module, inputs, output: 2 * output)

    def freeze(block):
        block.mlp.c_fc.weight.requires_grad_(False)

    def replace(block):
        block.mlp.gelu = Doubled(approximate="tanh")

    for change in (hook, freeze, replace):
        layers = build(change).layers
        assert [isinstance(layer, TorchBlock) for layer in layers[1:3]] == [False, True]
        parallel = TensorParallel(build(change), SGD(0.1), comm)
        assert_trains_like(Sequential(build(change), SGD(0.1)), parallel, batches(1), comm)
