"""Batches to train on, oracles to compare with, and what "trains the same" means."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from bench.core.first_difference import first_difference
from bench.core.rounding import Rounding, measurable
from bench.report.proofs import Comparison
from bench.user_code import nets
from nn import Batch, Model
from strategies import Sequential, Strategy
from tests.support import compared

STEP_TOLERANCE = 1e-12
"""Largest difference of a float64 weight after a step, relative to the largest weight."""

LEAST_MOVE = 1e-10
"""Least move of a weight, relative to the largest weight: it has to stand out from rounding."""


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
        self.batches, self.model, self.oracle = batches, oracle.model, oracle
        self.rounding = measurable(oracle, batches)
        self._weights, self._losses = [oracle.weights()], []
        for batch in batches:
            self._losses.append(oracle.step(batch))
            self._weights.append(oracle.weights())
        self._steps = 0

    def weights(self) -> NDArray:
        return self._weights[self._steps]

    def step(self, batch: Batch) -> float:
        recorded = self.batches[self._steps]
        assert batch is recorded or np.array_equal(batch.y, recorded.y), (
            "another batch than was recorded"
        )
        self._steps += 1
        return self._losses[self._steps - 1]


@dataclass(frozen=True)
class Differences:
    """How the training of a rank differs from its oracle after a step.

    Attributes:
        weights: largest difference of a weight, relative to the largest weight.
        explained: the largest difference that rounding was found to explain; 0 if nobody asked.
        problem: in a sentence, if there is more than the tolerance, and more than rounding
            explains.
    """

    weights: float
    problem: str = ""
    explained: float = 0.0


def assert_trains_like(
    oracle: Strategy | Recorded,
    strategy: Strategy,
    batches: Sequence[Batch],
    comm: MPI.Intracomm,
    tolerance: float = STEP_TOLERANCE,
    own_loss: bool = False,
) -> None:
    """Take the same steps with both; after each, losses and weights agree, on every rank.

    A difference above `tolerance` passes only if rounding explains it, which is then measured (see
    `bench.core.rounding`). A tolerance of 0 asks for the same bits. With `own_loss` the strategy's
    loss is that of a rank's own rows, and not compared.

    Raises:
        AssertionError: on every rank, with the same message: which step, and where in it the
            trainings first differ.
    """
    start, largest, passes = strategy.weights(), 0.0, tolerance
    np.testing.assert_array_equal(start, oracle.weights(), "the initial weights differ")
    rounding = oracle.rounding if isinstance(oracle, Recorded) else measurable(oracle, batches)
    for i, batch in enumerate(batches):
        losses = oracle.step(batch), strategy.step(batch)
        expected, weights = oracle.weights(), strategy.weights()
        found = _differences(i, losses, expected, weights, tolerance, own_loss, rounding)
        largest, passes = max(largest, found.weights), max(passes, found.explained)
        others = comm.allgather((weights, found.problem))
        problems = [
            f"rank {rank}: {problem}" for rank, (_, problem) in enumerate(others) if problem
        ]
        problems += [
            f"the weights of rank {rank} are not those of rank 0"
            for rank, (other, _) in enumerate(others)
            if not np.array_equal(other, others[0][0], equal_nan=True)
        ]
        if problems:
            plain: Any = oracle.oracle if isinstance(oracle, Recorded) else oracle
            where = first_difference(plain, strategy, batches[: i + 1], rounding)
            raise AssertionError("\n".join([f"step {i}: {problems[0]}", *problems[1:], *where]))
    weights = strategy.weights()
    moved, least = np.abs(weights - start).max(initial=0), max(LEAST_MOVE, 100 * tolerance)
    assert moved > least * np.abs(weights).max(initial=0), (
        f"the parameters moved by {moved:.1e} only, too little to show a difference: expected more "
        f"than {least:.0e} of the largest, as by a larger learning rate or a shorter warm-up"
    )
    name, net = type(strategy).__name__, repr(oracle.model)
    compared.note(Comparison(name, net, len(batches), largest, passes))


def _differences(
    step: int,
    losses: tuple[float, float],
    expected: NDArray,
    weights: NDArray,
    tolerance: float,
    own_loss: bool,
    rounding: Rounding | None,
) -> Differences:
    """Compare a step with the oracle's; rounding is measured only if the tolerance is exceeded."""
    distance, scale = np.abs(weights - expected), np.abs(expected).max()
    error = float(distance.max() / scale)
    loss_error = 0.0 if own_loss else abs(losses[1] - losses[0]) / abs(losses[0])
    if error <= tolerance and loss_error <= max(tolerance, 1e-15):
        return Differences(error)
    said = f"weights differ by {error:.1e} of the largest"
    if error <= tolerance:
        said = f"losses {losses} differ"
    if not tolerance or rounding is None:
        return Differences(error, said)
    explained = rounding.after(step)
    if explained.problem:
        return Differences(error, f"{said}, and rounding cannot be told: {explained.problem}")
    beyond = ~(distance <= np.maximum(tolerance * scale, explained.weights))
    if beyond.any():
        worst = np.nanargmax(np.where(beyond, distance, -1)) if np.isfinite(error) else 0
        return Differences(
            error,
            f"{said}; rounding explains {max(tolerance, explained.weights[worst] / scale):.1e} "
            f"for weight {worst}, which differs by {distance[worst] / scale:.1e}",
        )
    off = abs(losses[1] - losses[0])
    if not own_loss and not off <= max(tolerance * abs(losses[0]), explained.loss):
        return Differences(error, f"losses {losses} differ; rounding explains {explained.loss:.1e}")
    return Differences(error, explained=float(explained.weights.max() / scale))


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
