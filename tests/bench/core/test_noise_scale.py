"""The noise scale is that of the gradients, whatever the two batch sizes are."""

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bench.core.noise_scale import Noise, NoisyDataParallel, estimate
from nn import SGD, Batch, mlp
from strategies import Refused, Sequential

ROWS = 6


def squared_norms(gradients: NDArray, size: int) -> float:
    """The mean of |mean gradient|^2 over every batch of so many rows."""
    batches = [np.mean(gradients[list(rows)], axis=0) for rows in combinations(range(ROWS), size)]
    return float(np.mean([each @ each for each in batches]))


@pytest.mark.workers(1)
@settings(max_examples=40, deadline=None)
@given(
    sizes=st.sampled_from([*combinations(range(1, ROWS + 1), 2)]),
    seed=st.integers(0, 2**32 - 1),
    noise=st.floats(0.01, 30),
)
def test_estimates_have_no_bias(sizes: tuple[int, int], seed: int, noise: float) -> None:
    """Over all batches of a few rows, which are a sample themselves, the means are exact."""
    rng = np.random.default_rng(seed)
    gradients = rng.standard_normal(4) + noise * rng.standard_normal((ROWS, 4))
    small, big = sizes
    squared, trace = estimate(
        squared_norms(gradients, small), small, squared_norms(gradients, big), big
    )
    mean, planted = gradients.mean(axis=0), gradients.var(axis=0, ddof=1).sum()
    assert trace == pytest.approx(planted, rel=1e-9)
    # The mean of a sample is off by the noise of its rows, which the estimate leaves out.
    assert squared == pytest.approx(mean @ mean - planted / ROWS, rel=1e-9, abs=1e-9 * planted)


@pytest.mark.workers(1)
def test_a_planted_noise_scale_is_found() -> None:
    rng = np.random.default_rng(0)
    planted, small, big = 40.0, 8, 32
    direction = np.full(50, 1 / math.sqrt(50))  # |G|^2 = 1, and tr(S) = 40
    noise = Noise()
    for _ in range(2_000):
        rows = direction + math.sqrt(planted / 50) * rng.standard_normal((big, 50))
        shards = rows.reshape(-1, small, 50).mean(axis=1)
        whole = rows.mean(axis=0)
        found = estimate(float(np.mean((shards**2).sum(axis=1))), small, float(whole @ whole), big)
        noise.squared.append(found[0])
        noise.trace.append(found[1])
    assert noise.scale() == pytest.approx(planted, rel=0.05)
    assert noise.scale(since=0.5) == pytest.approx(planted, rel=0.08)


@pytest.mark.workers(1)
@pytest.mark.parametrize("sizes", [(8, 8), (9, 8), (0, 8), (math.nan, 8)])
def test_one_batch_size_is_refused(sizes: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="a noise scale needs two sizes"):
        estimate(1.0, sizes[0], 1.0, sizes[1])


@pytest.mark.workers(1)
def test_scales_of_trainings_that_say_nothing() -> None:
    assert math.isnan(Noise().scale())
    assert math.isnan(Noise([1.0], [math.inf]).scale())
    assert Noise([1.0, -1.5], [1.0, 1.0]).scale() == math.inf
    assert Noise([1.0, 1.0, 2.0, 2.0], [1.0, 1.0, 8.0, 8.0]).scale(since=0.5) == 4.0


def batch(rows: int, seed: int) -> Batch:
    rng = np.random.default_rng(seed)
    return Batch(rng.standard_normal((rows, 4)), rng.integers(0, 3, rows))


@pytest.mark.workers(2)
@pytest.mark.parametrize("rows", [2, 8, 5, 9])
def test_ranks_find_the_noise_of_their_own_gradients(comm, rows: int) -> None:
    """Shards of 5 rows are uneven. What is trained is what plain training trains."""
    strategy = NoisyDataParallel(mlp([4, 5, 3], dtype="float64"), SGD(0.1), comm)
    plain = Sequential(mlp([4, 5, 3], dtype="float64"), SGD(0.1))
    start = plain.weights()
    for step in range(3):
        each = batch(rows, step)
        of_shards, sizes = [], []
        for k in range(comm.size):
            shard = each.shard(k, comm.size).as_global()
            plain.model.gradients(shard)
            of_shards.append(float(plain.model.grads @ plain.model.grads))
            sizes.append(len(shard))
        plain.model.gradients(each)
        whole = float(plain.model.grads @ plain.model.grads)
        mean_size = float(1 / np.mean(1 / np.array(sizes)))
        expected = estimate(float(np.mean(of_shards)), mean_size, whole, rows)
        strategy.step(each)
        plain.step(each)
        found = strategy.noise.squared[-1], strategy.noise.trace[-1]
        np.testing.assert_allclose(found, expected, rtol=1e-10)
    assert len(strategy.noise.squared) == 3
    np.testing.assert_allclose(strategy.weights(), plain.weights(), rtol=0, atol=1e-12)
    assert np.abs(plain.weights() - start).max() > 1e-3
    assert len({*comm.allgather(tuple(strategy.noise.trace))}) == 1


@pytest.mark.workers(2)
def test_a_batch_of_one_row_has_no_noise_scale(comm) -> None:
    strategy = NoisyDataParallel(mlp([4, 5, 3], dtype="float64"), SGD(0.1), comm)
    strategy.step(batch(1, 0))
    assert strategy.noise == Noise()


@pytest.mark.workers(1)
def test_a_single_rank_is_refused(comm) -> None:
    with pytest.raises(Refused, match="expected 2 ranks or more"):
        NoisyDataParallel(mlp([4, 5, 3]), SGD(0.1), comm)
