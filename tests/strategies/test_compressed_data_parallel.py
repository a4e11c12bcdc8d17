"""Compressed gradients arrive late, but nothing is lost; if all is sent, nothing is late."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nn import SGD, Adam, cnn, mlp
from strategies import CompressedDataParallel, DataParallel, PowerSGD, Sequential, TopK
from strategies.base import Refused
from tests.support.oracles import assert_trains_like, random_batches
from tests.support.small_nets import small_mlp

LOSSLESS = {"all": lambda: TopK(10**6), "full_rank": lambda: PowerSGD(10**6)}
LOSSY = {"top_1": lambda: TopK(1), "top_20": lambda: TopK(20), "rank_1": lambda: PowerSGD(1)}


def small_cnn():
    return cnn(4, (1, 10, 10), dtype="float64", seed=1)


@pytest.mark.parametrize("compression", LOSSLESS)
@pytest.mark.parametrize("build", [small_mlp, small_cnn])
@pytest.mark.parametrize("rows", [13, 2])
def test_sending_everything_equals_data_parallel(comm, compression, build, rows):
    compressed = CompressedDataParallel(
        build(), SGD(0.1, momentum=0.9), comm, LOSSLESS[compression]()
    )
    batches = random_batches(compressed.model, rows, 3)
    oracle = DataParallel(build(), SGD(0.1, momentum=0.9), comm)
    assert_trains_like(oracle, compressed, batches, comm)


@pytest.mark.parametrize("compression", LOSSY)
def test_leaving_out_does_not(comm, compression):
    """Negative control: the first update differs by more than rounding."""
    compressed = CompressedDataParallel(small_mlp(), SGD(0.1), comm, LOSSY[compression]())
    oracle = Sequential(small_mlp(), SGD(0.1))
    for strategy in (compressed, oracle):
        strategy.step(random_batches(compressed.model, 13)[0])
    assert np.abs(compressed.weights() - oracle.weights()).max() > 1e-4


class Recorded(CompressedDataParallel):
    """Keeps the sum of the gradients before compression, and of what arrived after it."""

    def reduce(self, loss):
        raw = self.comm.allreduce(self.model.grads.copy())
        whole = super().reduce(loss)
        self.raw = getattr(self, "raw", 0) + raw
        self.arrived = getattr(self, "arrived", 0) + self.model.grads
        return whole


@settings(max_examples=25)
@given(
    compression=st.sampled_from(
        [lambda: TopK(1), lambda: TopK(20), lambda: PowerSGD(1), lambda: PowerSGD(3)]
    ),
    rows=st.integers(1, 20),
    seed=st.integers(0, 99),
)
def test_sent_and_residual_are_the_gradients(comm, compression, rows, seed):
    compressed = Recorded(small_mlp(), SGD(0.1), comm, compression())
    for batch in random_batches(compressed.model, rows, 6, seed):
        compressed.step(batch)
        left = comm.allreduce(compressed.residual)
        atol = 1e-13 * np.abs(compressed.raw).max()
        np.testing.assert_allclose(compressed.arrived + left, compressed.raw, rtol=0, atol=atol)
    assert np.abs(compressed.raw).max() > 1e-3


@pytest.mark.parametrize("k", [1, 5])
def test_top_k_sends_the_largest(comm, k):
    rng = np.random.default_rng(comm.rank)
    own = rng.standard_normal(40)
    raw, out = own.copy(), np.empty(40)
    TopK(k).sum(own, out, comm)
    largest = np.argsort(np.abs(raw))[-k:]
    sent = np.zeros(40)
    sent[largest] = raw[largest]
    np.testing.assert_array_equal(own, raw - sent)
    np.testing.assert_allclose(out, comm.allreduce(sent), rtol=1e-14)


@pytest.mark.parametrize(("rank", "recovered"), [(1, False), (2, False), (3, True), (4, True)])
def test_a_gradient_of_rank_3_is_recovered(comm, rank, recovered):
    """PowerSGD of rank 3 recovers the sum at once, though no rank's own gradient is of rank 3."""
    model = mlp([12, 10], dtype="float64")
    power = PowerSGD(rank)
    power.bind(model)
    rng = np.random.default_rng(comm.rank)
    noise = rng.standard_normal((comm.size, 10, 12))
    noise = np.array(comm.bcast(noise))
    noise -= noise.mean(axis=0)  # adds up to nothing over the ranks
    left, right = comm.bcast((rng.standard_normal((10, 3)), rng.standard_normal((3, 12))))
    mine = left @ right * (comm.rank + 1) + noise[comm.rank]
    own = np.append(mine, rng.standard_normal(10))
    total = comm.allreduce(own.copy())
    out = np.empty_like(own)
    power.sum(own, out, comm)
    error = np.abs(out - total).max() / np.abs(total).max()
    assert error < 1e-12 if recovered else error > 1e-3
    np.testing.assert_allclose(out[120:], total[120:], rtol=1e-14)  # the bias, uncompressed


def test_warm_start_finds_the_best_columns(comm):
    """From step to step Q comes nearer to the largest singular vectors of a gradient that stays."""
    model = mlp([12, 10], dtype="float64")
    power = PowerSGD(2)
    power.bind(model)
    rng = np.random.default_rng(0)
    left, right = (np.linalg.qr(rng.standard_normal((n, 10))).Q for n in (10, 12))
    sizes = 0.7 ** np.arange(10)
    gradient = np.append((left * sizes) @ right.T, np.zeros(10))
    best = np.linalg.norm(sizes[2:])
    missed = []
    for _ in range(20):
        out = np.empty_like(gradient)
        power.sum(gradient / comm.size, out, comm)
        missed.append(np.linalg.norm(out - gradient))
    assert missed[0] > 1.05 * best
    assert missed[-1] == pytest.approx(best, rel=1e-3)


@pytest.mark.parametrize("compression", ["top_20", "rank_1"])
def test_error_feedback_lets_it_learn(comm, compression):
    """The loss on one batch falls, in 150 steps, nearly as far as without compression."""
    batches = random_batches(small_mlp(), 13, steps=1) * 150

    def loss(strategy):
        return [strategy.step(batch) for batch in batches][-1]

    first = small_mlp().gradients(batches[0])
    plain = loss(DataParallel(small_mlp(), SGD(0.1), comm))
    compressed = loss(CompressedDataParallel(small_mlp(), SGD(0.1), comm, LOSSY[compression]()))
    assert first - compressed > 0.8 * (first - plain)


@pytest.mark.parametrize("compression", LOSSY)
def test_a_state_keeps_the_sum_of_the_residuals(comm, compression):
    first, second = (
        CompressedDataParallel(small_mlp(), Adam(1e-2), comm, LOSSY[compression]())
        for _ in range(2)
    )
    batches = random_batches(first.model, 13, 4)
    for batch in batches[:3]:
        first.step(batch)
    second.load_state(first.state())
    np.testing.assert_array_equal(second.weights(), first.weights())
    left = [comm.allreduce(strategy.residual.copy()) for strategy in (first, second)]
    np.testing.assert_allclose(*left, rtol=0, atol=1e-14 * np.abs(left[0]).max())
    assert np.abs(left[0]).max() > 1e-6
    if comm.size == 1:
        for strategy in (first, second):
            strategy.step(batches[3])
        np.testing.assert_array_equal(second.weights(), first.weights())


def test_wrong_arguments_say_what_was_expected(comm):
    with pytest.raises(ValueError, match="k=0: expected 1 or more"):
        TopK(0)
    with pytest.raises(TypeError, match=r"rank=1\.5: expected a whole number"):
        PowerSGD(1.5)
    with pytest.raises(TypeError, match="expected TopK"):
        CompressedDataParallel(small_mlp(), SGD(0.1), comm, 0.01)
    with pytest.raises(Refused, match=r"model is str: CompressedDataParallel expected nn\.Model"):
        CompressedDataParallel("mlp", SGD(0.1), comm, PowerSGD(1))
    plain = DataParallel(small_mlp(), SGD(0.1), comm)
    compressed = CompressedDataParallel(small_mlp(), SGD(0.1), comm, TopK(3))
    with pytest.raises(ValueError, match="residual"):
        compressed.load_state(plain.state())


def test_a_state_of_another_rank_is_refused_and_changes_nothing(comm):
    """Without the check numpy would broadcast a thin matrix into a wider one."""
    first, second = (
        CompressedDataParallel(small_mlp(), SGD(0.1), comm, PowerSGD(rank)) for rank in (1, 2)
    )
    first.step(random_batches(first.model, 13)[0])
    before = {name: value.copy() for name, value in second.compression.shared.items()}
    message = r"'compression.q0' of shape \(6, 1\): expected \(6, 2\)"
    with pytest.raises(ValueError, match=message):
        second.load_state(first.state())
    np.testing.assert_array_equal(second.weights(), small_mlp().params)
    for name, value in second.compression.shared.items():
        np.testing.assert_array_equal(value, before[name])
