"""Does it train the weights of plain training? The proof of a model or a strategy of your own.

Run by `pytest tests --model file.py:factory --strategy file.py:Class` (bench/user_code/README.md):
your model by your strategy; your model by all of ours that are exact; or ours by your strategy.
"""

from functools import partial
from typing import Any, NoReturn

import numpy as np
import pytest
from mpi4py import MPI

from bench.user_code import plugin
from bench.user_code.plugin import Net
from nn import SGD, AdaGrad, Adam, Batch, Model, lr_schedules
from strategies import Sequential
from strategies.base import Refused
from tests.support.oracles import STEP_TOLERANCE, assert_trains_like
from tests.support.small_nets import NETS
from tests.support.watched import Watched

OPTIMIZERS = {
    "sgd": lambda: SGD(0.05),
    "momentum": lambda: SGD(0.05, momentum=0.9, weight_decay=1e-3),
    "nesterov": lambda: SGD(lr_schedules.cosine(0.05, 10), momentum=0.9, nesterov=True),
    "adam": lambda: Adam(1e-3),
    "adagrad": lambda: AdaGrad(1e-2),
}


def _ours(name: str, dtype: str) -> Model:
    assert dtype == "float64"
    return NETS[name]()


OURS = {name: Net(name, partial(_ours, name)) for name in ("two", "four_tanh", "cnn", "residual")}
"""What a strategy of yours is tried with, in float64."""


class Trial:
    """One strategy, one model: builds pairs of it and of plain training, and compares them."""

    def __init__(self, build: Any, net: Net, comm: MPI.Intracomm, theirs: bool):
        self._build, self.net, self.comm, self._theirs = build, net, comm, theirs

    def strategy(self, optimizer: str = "momentum", comm: MPI.Intracomm | None = None) -> Any:
        try:
            return self._build(
                self.net.build("float64"), OPTIMIZERS[optimizer](), comm or self.comm
            )
        except Refused as refusal:
            self._refused(refusal)

    def oracle(self, optimizer: str = "momentum") -> Sequential:
        return Sequential(self.net.build("float64"), OPTIMIZERS[optimizer]())

    def compare(
        self, *sizes: int, optimizer: str = "momentum", tolerance: float = STEP_TOLERANCE
    ) -> None:
        """Train both on batches of these sizes: the same weights after every step?"""
        strategy, batches = self.strategy(optimizer), self.batches(*sizes)
        try:
            assert_trains_like(self.oracle(optimizer), strategy, batches, self.comm, tolerance)
        except Refused as refusal:
            strategy.close()
            self._refused(refusal)
        strategy.close()

    def batches(self, *sizes: int) -> list[Batch]:
        return self.net.batches(sizes)

    def _refused(self, refusal: Refused) -> NoReturn:
        """Ours say what they cannot train, which is no failure; of yours nothing is excused."""
        if self._theirs:
            raise refusal
        pytest.skip(f"refused: {refusal}")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    yours = plugin.of(metafunc.config)
    if "trial" in metafunc.fixturenames:
        metafunc.parametrize("model", yours.nets(OURS))
        metafunc.parametrize("strategy", yours.strategies())


@pytest.fixture
def trial(request, comm, model, strategy):
    yours = plugin.of(request.config)
    build, net = yours.strategies()[strategy], yours.nets(OURS)[model]
    return Trial(build, net, comm, theirs=yours.strategy is not None)


def test_it_begins_with_the_weights_of_the_model(trial):
    """`weights()`: all of them, in sequential order, on every rank, and a copy."""
    strategy, expected = trial.strategy(), trial.oracle().weights()
    weights = strategy.weights()
    np.testing.assert_array_equal(weights, expected)
    weights[:] = 0
    np.testing.assert_array_equal(strategy.weights(), expected)
    strategy.close()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_even_shards(trial, optimizer, workers):
    """The easy case: as many rows for every rank."""
    trial.compare(*[2 * workers] * 3, optimizer=optimizer)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_uneven_shards(trial, optimizer, workers):
    """Fails where each rank divides its loss by rows of its own: a mean of means."""
    trial.compare(*[2 * workers + 1] * 3, optimizer=optimizer)


def test_fewer_rows_than_ranks(trial):
    """Some ranks have no rows; they must take part all the same, and contribute nothing."""
    trial.compare(1, 1)


def test_batches_of_changing_size(trial, workers):
    """An epoch ends with a smaller batch."""
    trial.compare(3 * workers, 2 * workers - 1, 1, 3 * workers)


def test_many_steps(trial):
    """What goes wrong late, as in the optimizer's state, or adds up."""
    trial.compare(*[5] * 40, tolerance=1e-9)


def test_two_at_once(trial, workers):
    """Two objects of the strategy do not disturb each other."""
    one, other = trial.strategy("sgd"), trial.strategy("adam")
    oracles = trial.oracle("sgd"), trial.oracle("adam")
    for batch in trial.batches(2 * workers, 3 * workers):
        for strategy, oracle in zip((one, other), oracles):
            strategy.step(batch)
            oracle.step(batch)
    for strategy, oracle in zip((one, other), oracles):
        np.testing.assert_allclose(strategy.weights(), oracle.weights(), rtol=1e-9, atol=1e-12)
    one.close()
    other.close()


def test_closing_twice(trial, workers):
    """`close()` gives back what was held, on all ranks, and does nothing the second time."""
    comm = Watched(trial.comm)
    strategy = trial.strategy(comm=comm)
    strategy.step(*trial.batches(2 * workers))
    strategy.close()
    assert not comm.held, (
        f"close() freed all but {len(comm.held)} of {len(comm.record)} communicators"
    )
    strategy.close()
    trial.compare(2 * workers)  # a new one can be made
