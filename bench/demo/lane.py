"""What the ranks of a lane run: a real training, in turns that the server grants.

    python -m bench.demo.lane SOCKET NUMBER

on every rank, started by the server. Ranks say who they are over the socket. Rank 0 hears how far
it may train, and tells how it went; while it waits, all ranks sleep and the lane's clock stands.
A rank whose connection ends is over too, so none outlives the server.
"""

import math
import os
import queue
import socket
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import psutil
from mpi4py import MPI
from numpy.typing import NDArray

import nn
from bench.demo import wire
from bench.demo.nets import NETS
from bench.demo.settings import LaneSettings
from bench.demo.taught import Lesson, Taught, lessons_in
from nn.data import Dataset, load
from nn.plain_json import build
from strategies import History, Sequential, Strategy, train
from strategies.catalog import CATALOG
from strategies.comm.on_rank_0 import on_rank_0

STOP = 0.05
"""Seconds between two looks at whether a turn is over."""

_TRIED = 3  # steps that are timed to find out how many fit into STOP


class Server:
    """The connection to the server; this process ends with it."""

    def __init__(self, path: str, **hello: Any):
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(path)
        self._heard: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self.tell(event="hello", **hello)
        threading.Thread(target=self._listen, daemon=True).start()

    def tell(self, data: bytes | memoryview = b"", **message: Any) -> None:
        """Send a message, with data behind it."""
        self._socket.sendall(wire.encoded(message, data))

    def heard(self) -> dict[str, Any]:
        """Wait for the next message, and sleep meanwhile."""
        return self._heard.get()

    def _listen(self) -> None:
        with self._socket.makefile("rb") as stream:
            try:
                while True:
                    self._heard.put(wire.read(stream))
            except (EOFError, OSError, ValueError):
                os._exit(1)  # the server is gone, or has no more use for this lane


class Turns:
    """What rank 0 does whenever training stops: it looks, tells, and waits for its next turn.

    Attributes:
        history: of the training, once it has begun.
    """

    def __init__(self, server: Server, judge: nn.Model, taught: Taught, rows: int):
        self.server, self.judge, self.taught = server, judge, taught
        dataset = taught.dataset
        # Evenly spaced, since rows may be in the order of their classes.
        at = np.linspace(0, len(dataset.x_test), min(rows, len(dataset.x_test)), endpoint=False)
        self.x, self.y = dataset.x_test[at.astype(int)], dataset.y_test[at.astype(int)]
        self.history: History | None = None
        self.lessons: list[Lesson] = []
        self.horizon = -1
        self.epoch = -1
        self._until, self._told = 0.0, 0
        self._looked_at, self._look_took = -math.inf, 0.0
        self._processes: list[psutil.Process] = []
        self._used = 0.0

    def watch(self, pids: Sequence[int]) -> None:
        """Count the processor time of these processes."""
        self._processes = [psutil.Process(pid) for pid in pids]

    def follow(self, history: History) -> None:
        """Keep the history; what `train` calls after each step."""
        self.history = history

    def __call__(self, weights: NDArray) -> dict[str, float]:
        """Return the accuracy, if it is looked at, when the next turn has come."""
        history = self.history
        assert history is not None
        seconds = history.seconds[-1]
        is_last = self.taught.at_end
        if seconds < self._until and not is_last:
            return {}
        cores = self._cores(seconds)
        found: dict[str, float] = {}
        if is_last or seconds - self._looked_at >= self._look_took:
            found = self._look(weights, seconds)
        steps = history.loss[self._told :]
        first = self._told
        self._told = history.steps
        self.server.tell(
            _bytes(weights),
            event="slice",
            step=history.steps,
            epoch=self.epoch,
            seconds=seconds,
            samples=history.samples[-1] - (history.samples[first - 1] if first else 0),
            took=seconds - (history.seconds[first - 1] if first else 0.0),
            loss=_finite(float(np.mean(steps))),
            cores=cores,
            accuracy=found.get("accuracy"),
            last=is_last,
        )
        if not is_last:
            self.wait()
        return found

    def begin(self, weights: NDArray) -> None:
        """Say that the lane is ready, and wait for the first turn."""
        found = self._look(weights, -math.inf)
        self.server.tell(_bytes(weights), event="ready", **found)
        self.wait()

    def wait(self) -> None:
        """Sleep until the server grants the next turn."""
        self._take(self.server.heard())
        self._used = self._processor_time()

    def ask(self, epoch: int) -> list[Lesson]:
        """Return the lessons of an epoch that begins; the server settles which these are."""
        self.epoch = epoch
        while epoch > self.horizon:
            self.server.tell(event="epoch", epoch=epoch)
            self._take(self.server.heard())
        return [each for each in self.lessons if each.epoch <= epoch]

    def _take(self, message: dict[str, Any]) -> None:
        self._until = message.get("until", self._until)
        self.horizon = message["horizon"]
        self.lessons += lessons_in(message["lessons"])

    def _look(self, weights: NDArray, seconds: float) -> dict[str, float]:
        begin = time.perf_counter()
        self.judge.params[:] = weights
        right = float(np.mean(self.judge.predict(self.x) == self.y))
        self._looked_at, self._look_took = seconds, time.perf_counter() - begin
        return {"accuracy": right}

    def _cores(self, seconds: float) -> float:
        """Cores that the lane has used in its turn."""
        history = self.history
        before = history.seconds[self._told - 1] if history and self._told else 0.0
        return (self._processor_time() - self._used) / max(seconds - before, 1e-9)

    def _processor_time(self) -> float:
        times = [process.cpu_times() for process in self._processes]
        return sum(each.user + each.system for each in times)


def _bytes(weights: NDArray) -> memoryview:
    return np.ascontiguousarray(weights).data.cast("B")


def _finite(value: float) -> float | None:
    """JSON has no nan; a training that has left all bounds has no loss to draw."""
    return value if math.isfinite(value) else None


def run(server: Server, comm: MPI.Intracomm, order: dict[str, Any]) -> None:
    """Train as the server has ordered, and tell what came of it. Collective."""
    lane = build(LaneSettings, order["lane"])
    dataset = load(**order["source"])
    shape, epochs = tuple(order["shape"]), order["epochs"]

    def net() -> nn.Model:
        return NETS[lane.net].build(shape, dataset.classes, order["dtype"])

    def strategy() -> Strategy:
        optimizer = nn.SGD(lane.learning_rate, momentum=0.9)
        if lane.strategy == "Sequential":
            return Sequential(net(), optimizer, comm)
        return CATALOG[lane.strategy](net(), optimizer, comm)

    every = steps_between_stops(strategy(), dataset, lane.batch_size)
    trained = strategy()
    private = comm.Dup()  # lessons do not cross the messages of the strategy

    def lessons(epoch: int) -> list[Lesson]:
        return private.bcast(turns.ask(epoch) if comm.rank == 0 else None)

    taught = Taught(dataset, lessons)
    turns = Turns(server, net(), taught, order["rows"])
    pids = comm.allgather(os.getpid())
    weights = trained.weights()
    if comm.rank == 0:
        turns.watch(pids)
    on_rank_0(comm, lambda: turns.begin(weights))
    history = train(
        trained,
        taught,
        batch_size=lane.batch_size,
        epochs=epochs,
        every=every,
        evaluate=turns,
        on_step=turns.follow if comm.rank == 0 else None,
    )
    weights = trained.weights()
    if comm.rank == 0:
        looks = [each for each in history.evaluations if each.values]
        history = replace(history, name=lane.title, strategy=lane.strategy, evaluations=looks)
        server.tell(
            _bytes(weights),
            event="finished",
            history=history.as_dict(),
            confusion=confusion(turns.judge, weights, dataset).tolist(),
        )
    trained.close()


def steps_between_stops(strategy: Strategy, dataset: Dataset, batch_size: int) -> int:
    """How many steps last STOP seconds, the same number on every rank. Collective.

    The steps are taken with a strategy that is closed then, and bring code and data into memory.
    """
    seconds = 0.0
    for step, batch in zip(range(_TRIED), _endless(dataset, batch_size)):
        if step == 1:  # the first is slow
            strategy.comm.Barrier()
            seconds = time.perf_counter()
        strategy.step(batch)
    strategy.comm.Barrier()
    took = (time.perf_counter() - seconds) / (_TRIED - 1)
    strategy.close()
    return max(1, round(STOP / strategy.comm.allreduce(took, MPI.MAX)))


def _endless(dataset: Dataset, batch_size: int):
    while True:
        yield from dataset.batches(batch_size)


def confusion(judge: nn.Model, weights: NDArray, dataset: Dataset) -> NDArray[np.int64]:
    """Count the test pictures of each class (row) that are read as each class (column)."""
    judge.params[:] = weights
    counts = np.zeros((dataset.classes, dataset.classes), np.int64)
    np.add.at(counts, (dataset.y_test, judge.predict(dataset.x_test)), 1)
    return counts


def main() -> None:
    """Be a rank of a lane until it is over."""
    path, number = sys.argv[1:]
    comm = MPI.COMM_WORLD
    hello = dict(lane=int(number), rank=comm.rank, size=comm.size, pid=os.getpid())
    server = Server(path, **hello)
    try:
        run(server, comm, server.heard())
    except Exception as error:
        # The other ranks may wait for this one: the server ends them.
        server.tell(event="failed", reason=f"{type(error).__name__}: {error}")
        raise
    server.tell(event="bye")
    server.heard()  # so that it ends when the server lets it go


if __name__ == "__main__":
    main()
