"""The time of a step for every batch size and number of workers, in one race."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, cast

from mpi4py import MPI

from bench.core.arms import alone, among, bounded, together, training
from bench.core.check import equals_sequential, uneven_rows
from bench.core.machine_state import State
from bench.core.race import turns_on
from bench.core.turns import Contender, Rounds, Turn
from nn import SGD, Batch
from nn.data import Dataset
from strategies import Sequential, Strategy
from strategies.catalog import CATALOG
from strategies.comm.raise_together import raise_together

BATCHES = 8
"""Batches of each size that are trained on, again and again."""


def contender(batch_size: int, workers: int) -> str:
    """Return the name that a batch size on so many workers has in the race."""
    return f"{batch_size} rows, {workers} worker{'s' * (workers > 1)}"


def race_steps(
    comm: MPI.Intracomm,
    build: Callable[..., Any],
    data: Dataset,
    batch_sizes: Sequence[int],
    workers: Sequence[int],
    strategy: str,
    rounds: tuple[int, int],
    seconds: float,
) -> tuple[Rounds, State]:
    """Time steps of all batch sizes and numbers of workers in the same rounds. Collective.

    One worker trains plainly, more by the strategy, whose weights are checked first. The smallest
    batch on the first number of workers sets the pace.

    Args:
        build: makes the model.
        workers: in ascending order.
        strategy: its name in the catalog.
        rounds, seconds: as for `bench.core.turns.take_turns`.

    Raises:
        AssertionError: the strategy trains other weights than plain training; on every rank.
        Refused: it does not train this model, or not on these ranks; on every rank.
    """
    teams = [_Team(comm, build, data, count, strategy) for count in workers]
    contenders = {}
    for size in batch_sizes:
        full = (batch for batch in data.batches(size, BATCHES) if batch.global_rows == size)
        batches = [*islice(full, BATCHES)]
        for team in teams:
            paces = size == min(batch_sizes) and team is teams[0]
            contenders[contender(size, team.count)] = Contender(team.turn(batches), paces)
    found = turns_on(comm, contenders, rounds, seconds=seconds)
    for team in teams:
        team.close()
    return found


@dataclass
class _Team:
    """So many workers, the first ranks of `comm`, that train a model together. Collective."""

    comm: MPI.Intracomm
    build: Callable[..., Any]
    data: Dataset
    count: int
    strategy: str

    def __post_init__(self) -> None:
        takes_part = self.comm.rank < self.count
        self.ranks = cast(MPI.Intracomm, self.comm.Split(0 if takes_part else MPI.UNDEFINED))
        self._trained: Strategy | None = raise_together(
            self.comm, self._checked if takes_part else lambda: None
        )

    def _plain(self) -> Strategy:
        return Sequential(self.build(seed=0), SGD(0.001, momentum=0.9))

    def _checked(self) -> Strategy:
        if self.count == 1:
            return self._plain()
        strategy = CATALOG[self.strategy](self.build(seed=0), SGD(0.001, momentum=0.9), self.ranks)
        few = uneven_rows(self.count, len(self.data.y))
        batches = [*islice(self.data.batches(few, seed=1), 3)]
        problem = equals_sequential(strategy, self._plain(), batches, self.ranks).problem
        if problem:
            raise AssertionError(f"{self.strategy} on {self.count} workers: {problem}")
        return strategy

    def turn(self, batches: Sequence[Batch]) -> Turn:
        """Make the turn of these workers, while other ranks sleep."""
        work = training(self._trained.step, batches) if self._trained else None
        if self.count == 1:
            return bounded(partial(alone, self.comm, work))  # type: ignore[arg-type]
        turn = bounded(partial(together, self.ranks, work)) if work else _no_turn
        return among(self.comm, self.ranks, turn)

    def close(self) -> None:
        if self._trained:
            self._trained.close()
            self.ranks.Free()


def _no_turn(first: int, steps: int) -> float:
    return 0.0
