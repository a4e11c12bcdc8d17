"""The training loop: steps, and stops at which weights are evaluated and written to disk."""

import math
import time
from collections.abc import Callable, Iterable, Mapping
from numbers import Real
from os import PathLike
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from nn.arguments import as_int
from nn.batch import Batch
from strategies.base import Refused, Strategy
from strategies.comm.on_rank_0 import on_rank_0
from strategies.comm.raise_together import raise_together
from strategies.training.history import Evaluation, History
from strategies.training.resuming import SAME, resume, save

Evaluate = Callable[[NDArray], Mapping[str, float]]
"""weights, (n,) -> numbers by name."""


class Batches(Protocol):
    """A data set to train on: `nn.data.Dataset`, or anything else with its `batches`."""

    @property
    def batches(self) -> Callable[..., Iterable[Batch]]: ...


def train(
    strategy: Strategy,
    dataset: Batches,
    *,
    batch_size: int,
    epochs: int,
    seed: int = 0,
    start: int = 0,
    prefetch: int = 0,
    every: int | None = None,
    evaluate: Evaluate | None = None,
    evaluate_shares: bool = False,
    on_step: Callable[[History], Any] | None = None,
    checkpoint: str | PathLike[str] | None = None,
    checkpoint_every: int | None = None,
) -> History:
    """Train with a strategy on a data set. Collective; the same history on every rank.

    Every `every` steps, counted from the beginning of the first epoch, and at the end, the clock
    stands while weights are evaluated, ranks hear what `on_step` said, and a checkpoint is
    written. In between, ranks exchange nothing but what the strategy sends.

    A call with the arguments of an earlier one and its checkpoint goes on where that one was
    written, bit for bit: weights, history, order of batches, schedules. Which strategies do so on
    the same number of ranks, and which do so to rounding, `load` says. More epochs than before
    are allowed, and so is another strategy. (LocalSGD averages its weights whenever a checkpoint is
    written, so with checkpoints it learns other weights than without.)

    Args:
        dataset: gives global batches, the same on every rank, as `nn.data.Dataset.batches` does.
        batch_size, epochs, seed, start: as for `nn.data.Dataset.batches`.
        prefetch: batches of which a thread reads this rank's shard ahead of the step.
        every: steps between two stops; by default each epoch ends in one (`Batch.ends_epoch`).
        evaluate: called on rank 0 with all weights in sequential order, (n,), while the other
            ranks sleep. Returns numbers by name, such as {"accuracy": 0.97}.
        evaluate_shares: call `evaluate` on every rank instead, at the same time. It returns this
            rank's share of each number, e.g. of the loss of its rows, and the shares are summed. It
            does not communicate.
        on_step: called with the history so far after each step, on each rank where it is given;
            on ranks other than 0 that history is the rank's own. Its time is training time. If it
            returns something true, training ends at the next stop; what it raises is raised at the
            next stop, on every rank, and it is not called before that.
        checkpoint: a file to write the training to, and to resume it from if it is there.
        checkpoint_every: steps between two writes; by default the file is written at every stop.

    Raises:
        TypeError, ValueError: an argument is not of its kind, or differs between the ranks; the
            checkpoint is damaged, or of another training.
        OSError: the checkpoint cannot be read or written.
        Exception: what `evaluate` or `on_step` raised on any rank; on every rank.
    """
    if not isinstance(strategy, Strategy):
        raise TypeError(f"strategy is {type(strategy).__name__}: expected a strategies.Strategy")
    comm = strategy.comm

    def checked() -> History:
        if not callable(getattr(dataset, "batches", None)):
            raise TypeError(
                f"dataset is {type(dataset).__name__}: expected nn.data.Dataset or its like"
            )
        for name, function in (("evaluate", evaluate), ("on_step", on_step)):
            if function is not None and not callable(function):
                raise TypeError(f"{name}={function!r}: expected a function")
        for name, steps in (("every", every), ("checkpoint_every", checkpoint_every)):
            if steps is not None:
                as_int(name, steps, 1)
        as_int("prefetch", prefetch, 0)
        if checkpoint is None and checkpoint_every is not None:
            raise ValueError("checkpoint_every without checkpoint: expected a file to write to")
        if checkpoint is not None and not Path(checkpoint).absolute().parent.is_dir():
            raise FileNotFoundError(f"checkpoint={checkpoint}: its folder does not exist")
        return History(
            dataset=getattr(dataset, "name", type(dataset).__name__),
            rows=len(dataset.x) if hasattr(dataset, "x") else None,
            batch_size=as_int("batch_size", batch_size, 1),
            epochs=as_int("epochs", epochs, 0),
            seed=as_int("seed", seed, 0),
            start=as_int("start", start, 0),
            strategy=type(strategy).__name__,
            workers=comm.size,
        )

    history = raise_together(comm, checked)
    _check_alike(
        comm,
        **{name: getattr(history, name) for name in (*SAME, "epochs")},
        **{"prefetch": prefetch, "every": every, "checkpoint_every": checkpoint_every},
        **{"evaluate": evaluate is not None, "checkpoint": checkpoint is not None},
        evaluate_shares=bool(evaluate_shares),
    )
    run = _Run(strategy, history, evaluate, bool(evaluate_shares), on_step, checkpoint)
    ahead = {"prefetch": prefetch, "part": (comm.rank, comm.size)} if prefetch else {}
    batches = dataset.batches(
        history.batch_size, history.epochs, history.seed, run.position, **ahead
    )
    try:
        run.start_clock()
        for batch in batches:
            stops = batch.ends_epoch if every is None else (run.position + 1) % every == 0
            run.step(batch, stops)
            saves = stops if checkpoint_every is None else run.position % checkpoint_every == 0
            if (stops or saves) and run.stop(stops, saves):
                break
        else:
            run.stop(True, True)
    finally:
        if hasattr(batches, "close"):
            batches.close()  # ends the threads that read ahead
    run.share()
    if history.start and history.epochs and not run.history.steps:
        raise ValueError(f"start={start}: the training has no more than {start} batches")
    return run.history


class _Run:
    """A training under way.

    Attributes:
        position: batches trained on, counted from the beginning of the first epoch.
        saved_at: the position in the checkpoint.
        shared: steps of which every rank has in its history what rank 0 has.
    """

    def __init__(
        self,
        strategy: Strategy,
        history: History,
        evaluate: Evaluate | None,
        evaluate_shares: bool,
        on_step: Callable[[History], Any] | None,
        path: str | PathLike[str] | None,
    ):
        self.strategy, self.comm, self.path = strategy, strategy.comm, path
        self.evaluate, self.evaluate_shares, self.on_step = evaluate, evaluate_shares, on_step
        self.history, self.position, self.saved_at = history, history.start, -1
        if path is not None and (found := resume(path, strategy, history)):
            self.history, self.position = found
            self.saved_at = self.position
        self.shared = self.history.steps
        self.is_heard = any(self.comm.allgather(on_step is not None))
        self.wants_to_end = False
        self.error: Exception | None = None

    def start_clock(self) -> None:
        self.comm.Barrier()
        self._zero = time.perf_counter() - (self.history.seconds or [0.0])[-1]

    def step(self, batch: Batch, stops: bool) -> None:
        """Take a step and note it, with the norm of its gradient if a stop follows."""
        history, optimizer = self.history, self.strategy.optimizer
        rate = getattr(optimizer, "lr", math.nan)
        history.learning_rate.append(float(rate(optimizer.steps) if callable(rate) else rate))
        if stops:
            self.strategy.want_grad_norm()
        history.loss.append(self.strategy.step(batch))
        history.grad_norm.append(self._grad_norm() if stops else math.nan)
        history.samples.append((history.samples or [0])[-1] + len(batch))
        history.seconds.append(time.perf_counter() - self._zero)
        self.position += 1
        if self.on_step and not (self.error or self.wants_to_end):
            try:
                self.wants_to_end = bool(self.on_step(history))
            except Exception as error:  # raised at the next stop, where every rank hears of it
                self.error = error

    def _grad_norm(self) -> float:
        """The norm of the step's gradient, nan without a common one; the clock stands meanwhile."""
        begin = time.perf_counter()
        try:
            return self.strategy.grad_norm()
        except Refused:
            return math.nan
        finally:
            self._zero += time.perf_counter() - begin

    def stop(self, stops: bool, saves: bool) -> bool:
        """Do what is due while the clock stands, and return whether a rank wants to end."""
        is_new = self.position not in [each.step for each in self.history.evaluations[-1:]]
        evaluates = stops and is_new and self.evaluate is not None
        saves = saves and (evaluates or self.saved_at != self.position)
        hears = stops and self.is_heard
        if not self.history.steps or not (evaluates or hears or (saves and self.path is not None)):
            return False
        self.share()
        if evaluates:
            self._evaluate()
        ends = hears and self._hear()
        if self.path is not None and (saves or ends):
            save(self.path, self.strategy, self.position, self.history)
            self.saved_at = self.position
        self.start_clock()
        return ends

    def share(self) -> None:
        """Stop the clock, and give every rank rank 0's account of the steps since the last stop."""
        lo, history = self.shared, self.history
        if lo == history.steps:
            return
        self.comm.Barrier()
        history.seconds[-1] = time.perf_counter() - self._zero
        seen = np.array([history.loss[lo:], history.seconds[lo:]])
        self.comm.Bcast(seen)
        history.loss[lo:], history.seconds[lo:] = seen.tolist()
        self.shared = history.steps

    def _evaluate(self) -> None:
        assert self.evaluate is not None
        begin, evaluate = time.perf_counter(), self.evaluate
        weights = self.strategy.weights()

        def values_and_time() -> tuple[dict[str, float], float]:
            return _as_floats(evaluate(weights)), time.perf_counter() - begin

        if self.evaluate_shares:
            values, took = self._sum_of_shares(raise_together(self.comm, values_and_time))
        else:
            values, took = on_rank_0(self.comm, values_and_time)
        self.history.evaluations.append(
            Evaluation(self.position, self.history.seconds[-1], took, values)
        )

    def _sum_of_shares(self, own: tuple[dict[str, float], float]) -> tuple[dict[str, float], float]:
        """Add the shares of all ranks in their order, and take the time of the slowest."""
        of_all = self.comm.allgather(own)
        names = [list(values) for values, _ in of_all]
        if any(each != names[0] for each in names):
            raise ValueError(
                f"evaluate returned {names} on ranks 0 to {self.comm.size - 1}: expected a share "
                "of the same numbers on each"
            )
        summed = {name: math.fsum(values[name] for values, _ in of_all) for name in names[0]}
        return summed, max(took for _, took in of_all)

    def _hear(self) -> bool:
        """Raise what `on_step` raised on any rank; returns whether any rank wants to end."""

        def said() -> None:
            if self.error:
                raise self.error

        raise_together(self.comm, said)
        return any(self.comm.allgather(self.wants_to_end))


def _check_alike(comm: MPI.Intracomm, **arguments: Any) -> None:
    """Raise ValueError if the ranks do not call `train` with the same arguments."""
    everyone = comm.allgather(arguments)
    for name in arguments:
        if any(each[name] != arguments[name] for each in everyone):
            values = ", ".join(str(each[name]) for each in everyone)
            raise ValueError(f"{name} differs between the ranks ({values}): expected the same")


def _as_floats(values: Any) -> dict[str, float]:
    if not isinstance(values, Mapping) or not all(isinstance(v, Real) for v in values.values()):
        raise TypeError(
            f"evaluate returned {values!r:.80}: expected numbers by name, such as "
            '{"accuracy": 0.97}'
        )
    return {str(name): float(value) for name, value in values.items()}
