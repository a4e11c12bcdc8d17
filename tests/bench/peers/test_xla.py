"""JAX trains as plain training does: else its time could not be compared."""

import time

import numpy as np
import pytest

from bench.core.cores import unbound
from nn import SGD, Batch, mlp
from nn.loss import CrossEntropy
from strategies import Sequential
from tests.support.optional import needs

pytestmark = pytest.mark.workers(1)

SIZES, RATE = [6, 7, 5, 4], 0.3


@needs("jax")
def test_it_has_one_thread():
    """Else a race on one thread would not be one. A busy machine only lowers what is counted."""
    from bench.peers.xla import JaxNet

    net, rng = JaxNet(mlp([784, 256, 128, 10]), RATE), np.random.default_rng(0)
    x, y = rng.standard_normal((1024, 784)), rng.integers(0, 10, 1024)
    cores = []
    with unbound():
        batch = net.put(Batch(x.astype(np.float32), y))
        net.train(*batch)
        for _ in range(30):
            begin, used = time.perf_counter(), time.process_time()
            for _ in range(10):
                net.train(*batch)
            cores.append((time.process_time() - used) / (time.perf_counter() - begin))
    assert max(cores) < 1.15


@needs("jax")
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 1e-5)])
def test_it_trains_like_sequential(dtype, tolerance):
    from bench.peers.xla import JaxNet

    model, rng = mlp(SIZES, dtype=dtype, seed=1), np.random.default_rng(0)
    net, begin = JaxNet(model, RATE), model.params.copy()
    plain = Sequential(model, SGD(RATE))
    np.testing.assert_array_equal(net.weights(), begin)
    for rows in (7, 5, 7, 1):
        batch = Batch(rng.standard_normal((rows, 6)), rng.integers(0, 4, rows))
        assert net.step(batch) == pytest.approx(plain.step(batch), rel=tolerance)
    assert net.weights().dtype == dtype
    assert np.abs(net.weights() - begin).max() > 0.1
    np.testing.assert_allclose(net.weights(), plain.weights(), rtol=0, atol=tolerance)


@needs("jax")
def test_other_losses_are_refused():
    from bench.peers.xla import JaxNet

    with pytest.raises(ValueError, match=r"expected CrossEntropy\(\)"):
        JaxNet(mlp(SIZES, loss=CrossEntropy(ignore_index=1)), RATE)
