"""Does it train the weights of plain training? The proof of a user's own model or strategy.

Run by `pytest tests --model file.py:factory --strategy file.py:Class` (bench/user_code/README.md).
What is not given is ours: nets, optimizers, and all exact strategies.
"""

import copy
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any, NoReturn

import numpy as np
import pytest
from mpi4py import MPI

from bench.user_code.nets import Net
from bench.user_code.registry import loaded
from nn import Batch, Model
from strategies import Sequential
from strategies.base import Refused
from tests.support.optimizers import optimizers
from tests.support.oracles import STEP_TOLERANCE, Recorded, assert_trains_like
from tests.support.small_nets import NETS
from tests.support.watched import Watched

OPTIMIZERS = optimizers(0.05)


def _ours(name: str, dtype: str) -> Model:
    assert dtype == "float64"
    return NETS[name]()


OURS = {name: Net(name, partial(_ours, name)) for name in ("two", "four_tanh", "cnn", "residual")}
"""The nets that a user's strategy is tried with, in float64."""


SMALL = 2**16
"""Nets of at most so many parameters are trained by `Sequential` once, and kept step by step."""


@lru_cache(maxsize=24)  # as many as `test_even_shards` has for each strategy
def _recorded(net: Net, optimizer: Callable[[], Any], sizes: tuple[int, ...]) -> Recorded:
    return Recorded(Sequential(net.build("float64"), optimizer()), net.batches(sizes))


class Trial:
    """Trains one net with one strategy and with plain training, and compares the two.

    Args:
        theirs: whether the strategy is the user's. Ours may refuse a model, which skips the test;
            a user's may not.
        optimizers: functions that make new optimizers; where a test names none of them, it takes
            "decay", or else the first.
    """

    def __init__(
        self,
        build: Any,
        net: Net,
        comm: MPI.Intracomm,
        theirs: bool,
        optimizers: Mapping[str, Callable[[], Any]] = OPTIMIZERS,
    ):
        self._build, self.net, self.comm, self._theirs = build, net, comm, theirs
        self.optimizers = optimizers

    def _named(self, name: str | None) -> Callable[[], Any]:
        usual = "decay" if "decay" in self.optimizers else next(iter(self.optimizers))
        return self.optimizers[name or usual]

    def strategy(self, optimizer: str | None = None, comm: MPI.Intracomm | None = None) -> Any:
        try:
            return self._build(
                self.net.build("float64"), self._named(optimizer)(), comm or self.comm
            )
        except Refused as refusal:
            self._refused(refusal)

    def oracle(self, optimizer: str | None = None) -> Sequential:
        return Sequential(self.net.build("float64"), self._named(optimizer)())

    def _recorded(self, optimizer: str | None, sizes: tuple[int, ...]) -> Sequential | Recorded:
        """Plain training: of a small net, taken once for all strategies and their rounding."""
        shown = getattr(self.net.build, "shown", self.net.build)
        if len(shown("float64").params) > SMALL:
            return self.oracle(optimizer)
        return copy.copy(_recorded(self.net, self._named(optimizer), sizes))

    def compare(
        self, *sizes: int, optimizer: str | None = None, tolerance: float = STEP_TOLERANCE
    ) -> None:
        """Train both on batches of these sizes, and compare them after every step."""
        self.compare_with(
            self.strategy(optimizer), *sizes, optimizer=optimizer, tolerance=tolerance
        )

    def compare_with(
        self,
        strategy: Any,
        *sizes: int,
        optimizer: str | None = None,
        tolerance: float = STEP_TOLERANCE,
    ) -> None:
        """Compare a strategy that has taken no step yet, as `compare` does, and close it."""
        oracle, batches = self._recorded(optimizer, sizes), self.batches(*sizes)
        try:
            assert_trains_like(oracle, strategy, batches, self.comm, tolerance)
        except Refused as refusal:
            strategy.close()
            self._refused(refusal)
        strategy.close()

    def batches(self, *sizes: int) -> list[Batch]:
        return self.net.batches(sizes)

    def _refused(self, refusal: Refused) -> NoReturn:
        if self._theirs:
            raise refusal
        pytest.skip(f"refused: {refusal}")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    user_code = loaded(metafunc.config)
    if "trial" in metafunc.fixturenames:
        metafunc.parametrize("model", user_code.nets(OURS))
        metafunc.parametrize("strategy", user_code.strategies())
    if "optimizer" in metafunc.fixturenames:
        metafunc.parametrize("optimizer", user_code.optimizers(OPTIMIZERS))


@pytest.fixture
def trial(request, comm, model, strategy):
    user_code = loaded(request.config)
    build, net = user_code.strategies()[strategy], user_code.nets(OURS)[model]
    theirs = user_code.strategy is not None
    return Trial(build, net, comm, theirs, user_code.optimizers(OPTIMIZERS))


def test_it_begins_with_the_weights_of_the_model(trial):
    """`weights()` returns a copy of all parameters, in sequential order, on every rank."""
    strategy, expected = trial.strategy(), trial.oracle().weights()
    weights = strategy.weights()
    np.testing.assert_array_equal(weights, expected)
    weights[:] = 0
    np.testing.assert_array_equal(strategy.weights(), expected)
    strategy.close()


def test_even_shards(trial, optimizer, workers):
    """The easy case: all ranks get the same number of rows."""
    trial.compare(*[2 * workers] * 3, optimizer=optimizer)


def test_uneven_shards(trial, optimizer, workers):
    """Fails if each rank divides its loss by the number of its own rows: a mean of means."""
    trial.compare(*[2 * workers + 1] * 3, optimizer=optimizer)


def test_fewer_rows_than_ranks(trial):
    """Ranks without rows must still take part in the step, and contribute nothing."""
    trial.compare(1, 1)


def test_batches_of_changing_size(trial, workers):
    """An epoch ends with a smaller batch."""
    trial.compare(3 * workers, 2 * workers - 1, 1, 3 * workers)


def test_many_steps(trial):
    """Shows errors that come late or add up, as in the optimizer's state."""
    trial.compare(*[5] * 40, tolerance=1e-9)


def test_two_at_once(trial, workers):
    """Two objects of one strategy must not disturb each other."""
    names = ("sgd", "adam") if "sgd" in trial.optimizers else (None, None)
    for name, beside in (names, names[::-1]):
        one, other = trial.strategy(name), trial.strategy(beside)
        _step_together(one, other)
        trial.compare_with(one, 2 * workers, 3 * workers, optimizer=name)
        other.close()


def _step_together(one: Any, other: Any) -> None:
    """Let `other` take each step before `one` takes it."""
    alone = one.step

    def step(batch: Batch) -> float:
        other.step(batch)
        return alone(batch)

    one.step = step


def test_closing_twice(trial, workers):
    """`close()` frees all communicators, on all ranks, and does nothing the second time."""
    comm = Watched(trial.comm)
    strategy = trial.strategy(comm=comm)
    strategy.step(*trial.batches(2 * workers))
    strategy.close()
    assert not comm.held, (
        f"close() freed all but {len(comm.held)} of {len(comm.record)} communicators"
    )
    strategy.close()
    trial.compare(2 * workers)  # a new one can be made
