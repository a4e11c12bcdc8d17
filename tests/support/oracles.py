"""Batches to train on, oracles to compare with, and what "trains the same" means."""

from collections.abc import Sequence

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from bench.report.proofs import Comparison
from bench.user_code import nets
from nn import Batch, Model
from strategies import Sequential, Strategy
from tests.support import compared

STEP_TOLERANCE = 1e-12
"""Largest difference of a float64 weight after a step, relative to the largest weight."""


def random_batches(model: Model, rows: int, steps: int = 3, seed: int = 0) -> list[Batch]:
    """Make random batches of `rows` rows that fit the model, the same on every rank."""
    return nets.random_batches(model, [rows] * steps, seed)


class MatchedOrder(Sequential):
    """Sequential training that adds shards in the order of the ranks, to compare to the bit.

    The gradient of each shard is computed by itself (a matrix product of other shape rounds
    otherwise), and the shards are summed in rank order.
    """

    def __init__(self, model: Model, optimizer, shards: int):
        super().__init__(model, optimizer)
        self.shards = shards

    def gradients(self, batch: Batch) -> float:
        losses, parts = [], []
        for k in range(self.shards):
            losses.append(self.model.gradients(batch.shard(k, self.shards)))
            parts.append(self.model.grads.copy())
        total = parts[0]
        for part in parts[1:]:
            total += part
        self.model.grads[:] = total
        return float(sum(losses))


class Recorded:
    """The steps of an oracle on some batches, taken once and compared with many strategies.

    Copy it (`copy.copy`) to begin at the start.
    """

    def __init__(self, oracle: Strategy, batches: Sequence[Batch]):
        self.batches, self.model = batches, oracle.model
        self._weights, self._losses = [oracle.weights()], []
        for batch in batches:
            self._losses.append(oracle.step(batch))
            self._weights.append(oracle.weights())
        self._steps = 0

    def weights(self) -> NDArray:
        return self._weights[self._steps]

    def step(self, batch: Batch) -> float:
        assert batch is self.batches[self._steps], "another batch than was recorded"
        self._steps += 1
        return self._losses[self._steps - 1]


def assert_trains_like(
    oracle: Strategy | Recorded,
    strategy: Strategy,
    batches: Sequence[Batch],
    comm: MPI.Intracomm,
    tolerance: float = STEP_TOLERANCE,
    own_loss: bool = False,
) -> None:
    """Take the same steps with both; after each, losses and weights agree, on every rank.

    A tolerance of 0 asks for the same bits. With `own_loss` the strategy's loss is that of a rank's
    own rows, and not compared.
    """
    start, largest = strategy.weights(), 0.0
    np.testing.assert_array_equal(start, oracle.weights(), "the initial weights differ")
    for i, batch in enumerate(batches):
        losses = oracle.step(batch), strategy.step(batch)
        expected, weights = oracle.weights(), strategy.weights()
        scale = np.abs(expected).max()
        error = np.abs(weights - expected).max() / scale
        assert error <= tolerance, f"step {i}: weights differ by {error:.1e} of the largest"
        largest = max(largest, float(error))
        loss_error = abs(losses[1] - losses[0]) / abs(losses[0])
        assert own_loss or loss_error <= max(tolerance, 1e-15), f"step {i}: losses {losses} differ"
        for rank, others in enumerate(comm.allgather(weights)):
            np.testing.assert_array_equal(weights, others, f"step {i}: rank {rank} differs")
    moved = np.abs(strategy.weights() - start).max()
    assert moved > 1e-4, f"the parameters moved by {moved:.1e} only"
    name, net = type(strategy).__name__, repr(oracle.model)
    compared.note(Comparison(name, net, len(batches), largest, tolerance))


def assert_goes_on_like(oracle: Strategy, strategy: Strategy, batches: Sequence[Batch]) -> None:
    """Let each load the state of the other: after two steps, after one, and then take one."""
    first, second, third, fourth = batches
    for batch in (first, second):
        oracle.step(batch)
    strategy.load_state(oracle.state())
    np.testing.assert_array_equal(strategy.weights(), oracle.weights())
    strategy.step(third)
    oracle.load_state(strategy.state())
    for each in (oracle, strategy):
        each.step(fourth)
    np.testing.assert_allclose(strategy.weights(), oracle.weights(), rtol=0, atol=1e-13)
