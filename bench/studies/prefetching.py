"""Does it pay to have threads read batches ahead of the step?

Runtime and accuracy of a training run as it is (the base), with batches read ahead by threads, and
on each device. Not part of the common run: `nox -s bench_mpi -- -n 1 bench/studies/prefetching.py`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from bench.core.turns import Contender, Turn, ratio, take_turns
from bench.report.promises import Promise
from nn import SGD, Batch, cnn, data, mlp
from nn.data import Dataset
from nn.data.prefetch import prefetch
from strategies import History, Sequential, train

pytestmark = pytest.mark.workers(1)

READERS = {"base": 0, "ahead, 1 thread": 1, "ahead, 2 threads": 2}
ROUNDS = 7


@dataclass(frozen=True)
class Net:
    """A net and its data; a round is so many epochs that it can be timed."""

    name: str
    dataset: str
    size: int | None
    batch_size: int
    epochs: int
    lr: float


IRIS = Net("iris", "iris", None, batch_size=16, epochs=20, lr=0.1)
CNN = Net("cnn", "digits", 1000, batch_size=64, epochs=1, lr=0.05)


@dataclass(frozen=True)
class ReadAhead:
    """A data set whose batches some threads read ahead."""

    rows: Dataset
    threads: int

    @property
    def name(self) -> str:
        return self.rows.name

    def batches(self, *order: int) -> Iterator[Batch]:
        batches = self.rows.batches(*order)
        if not self.threads:
            return batches
        return prefetch(batches, ahead=2 * self.threads, threads=self.threads)


every_net = pytest.mark.parametrize("net", [IRIS, CNN], ids=lambda net: net.name)


@every_net
def test_reading_ahead(record, promise, net):
    compare(record, promise, net, "numpy", lambda: mlp([4, 50, 3]) if net is IRIS else cnn())


@every_net
def test_reading_ahead_in_torch(record, promise, net, device):
    pytest.importorskip("torch").set_num_threads(1)
    from nn.torch import zoo
    from nn.torch.model import TorchModel

    name, shape = ("mlp", (4,)) if net is IRIS else ("cnn", (1, 28, 28))
    compare(
        record,
        promise,
        net,
        f"torch, {device}",
        lambda: TorchModel(zoo.build(name), device, seed=0, input_shape=shape),
    )


def compare(
    record: Any, promise: Any, net: Net, computed_by: str, model: Callable[[], Any]
) -> None:
    """Train in turn, an epoch or some at a time, with and without threads that read ahead."""
    rows = data.load(net.dataset, net.size)
    models = {how: model() for how in READERS}
    runs = {how: Sequential(models[how], SGD(net.lr, momentum=0.9)) for how in READERS}

    histories: list[History] = []

    def turn(how: str) -> Turn:
        dataset = ReadAhead(rows, READERS[how])

        def epochs(first: int, count: int) -> float:
            order = first // count  # another one in every round, the same for all
            history = train(runs[how], dataset, batch_size=net.batch_size, epochs=count, seed=order)
            # Kept on disk after the rounds: a write within them would disturb the next turn.
            histories.append(replace(history, name=f"{net.name}, {computed_by}, {how}"))
            return history.seconds[-1]

        return epochs

    contenders = {how: Contender(turn(how)) for how in READERS}
    for contender in contenders.values():  # to warm up
        contender.turn(ROUNDS * net.epochs, net.epochs)
    times = take_turns(contenders, ROUNDS, steps=net.epochs).per_step
    for history in histories:
        record(history)
    seconds = {how: float(np.median(each)) for how, each in times.items()}
    base = runs["base"].weights()
    for how, run in runs.items():
        np.testing.assert_array_equal(run.weights(), base, f"{how}: other weights")
        accuracy = float(np.mean(models[how].predict(rows.x_test) == rows.y_test))
        over_base = ratio(times[how], times["base"])
        what = (
            f"{net.name}, {computed_by}, {how}: {accuracy:.1%} right, {seconds[how]:.4f} s an epoch"
        )
        record(Promise(f"{what}, over base", over_base), "", [], {"accuracy": accuracy})
    ahead = ratio(times["ahead, 1 thread"], times["base"])
    if net is IRIS:  # steps of microseconds: a thread costs more than it gives
        limit = 1.0 if computed_by == "numpy" else None
        held = f"iris, {computed_by}: base / read ahead", 1 / ahead, limit
    else:
        held = f"cnn, {computed_by}: read ahead / base", ahead, 1.05
    read = times["ahead, 1 thread"]
    promise(*held, read, cores=2, ahead=ahead, seconds_an_epoch=seconds)  # one for the thread
