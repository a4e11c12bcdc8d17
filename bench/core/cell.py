"""What is measured (`Cell`), how it is trained (`Case`), and what came out (`Measurement`)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from mpi4py import MPI
from numpy.typing import ArrayLike
from scipy import stats

from bench.core.check import Check, Checker, equals_sequential
from bench.core.cores import available
from bench.core.machine_state import State, background_load
from bench.core.turns import Rounds
from nn.batch import Batch
from nn.plain_json import INLINE
from strategies.base import Strategy
from strategies.records import Record


@dataclass(frozen=True)
class Cell:
    """One combination of strategy, net and sizes, in the public names of a result."""

    strategy: str
    model: str
    workers: int
    batch_size: int
    dataset_size: int
    device: str = "cpu"

    def __str__(self) -> str:
        return (
            f"{self.strategy}-{self.model}-{self.workers}w-b{self.batch_size}"
            f"-n{self.dataset_size}-{self.device}"
        )


@dataclass(frozen=True)
class Case:
    """How a cell is trained.

    Attributes:
        build: makes the strategy on a communicator; collective.
        sequential: makes plain training of the same model with the same optimizer.
        batches: global batches of equal size, on which every arm trains in order, again and again.
        check_batches: global batches of the check; a small one does not divide by the workers.
        check: compares parallel and sequential training; `equals_sequential` unless the strategy
            promises something else.
        runs_silent: whether the strategy runs on without messages; False if it acts on what they
            say.
    """

    cell: Cell
    build: Callable[[MPI.Intracomm], Strategy]
    sequential: Callable[[], Strategy]
    batches: Sequence[Batch]
    check_batches: Sequence[Batch]
    check: Checker = equals_sequential
    runs_silent: bool = True


@dataclass(frozen=True)
class Measurement(Record, kind="cell"):
    """A measured cell. Speedups are ratios of medians over rounds; times are in seconds.

    Attributes:
        speedup, speedup_low, speedup_high: the time of sequential training over that of the
            strategy, with its 95% interval over the paired rounds of this launch (launches differ
            by more than that).
        efficiency: speedup / workers.
        bound: the speedup if communication were free; None if the strategy needs its messages.
        threads_speedup: the speedup of one process that uses all cores as threads.
        oversubscribed: whether there are more workers than cores.
        check_error: `Check.error`.
        samples_per_second: rows that the strategy trains on in a second.
        steps_per_round: training steps in every turn of every arm. A turn with fewer (see
            `arms.bounded`) is scaled up to that number.
        rounds: arm -> seconds of its turn in each round.
        profile, single_steps, operations: see `bench.core.profile`.
        machine: what the machine was like in each round, see `bench.core.machine_state`.
        note: what the reader must know about the check.
    """

    cell: Cell = field(metadata=INLINE)
    speedup: float
    speedup_low: float
    speedup_high: float
    efficiency: float
    bound: float | None
    threads_speedup: float
    oversubscribed: bool
    check_error: float | None
    samples_per_second: float
    steps_per_round: int
    rounds: dict[str, list[float]]
    profile: dict[str, list[float]]
    note: str = ""
    single_steps: dict[str, float] = field(default_factory=dict)
    machine: State = field(default_factory=dict)
    operations: list[list[tuple[str, int, int, float, float]]] = field(default_factory=list)

    @property
    def serial_fraction(self) -> float | None:
        """See `serial_fraction`."""
        return serial_fraction(self.speedup, self.cell.workers)

    @property
    def background_load(self) -> float:
        """Cores that other programs used meanwhile."""
        return background_load(self.machine)

    @classmethod
    def of(
        cls,
        cell: Cell,
        rounds: dict[str, list[float]],
        steps: int,
        check: Check,
        profile: dict[str, list[float]] | None = None,
        single_steps: dict[str, float] | None = None,
        machine: State | None = None,
        operations: list[list[tuple[str, int, int, float, float]]] | None = None,
    ) -> "Measurement":
        """Summarize rounds of so many steps; the arm "silent" may be missing."""
        medians = {arm: float(np.median(times)) for arm, times in rounds.items()}
        one = medians["sequential"]
        low, high = interval(rounds["sequential"], rounds["parallel"])
        speedup = one / medians["parallel"]
        return cls(
            cell=cell,
            speedup=speedup,
            speedup_low=low,
            speedup_high=high,
            efficiency=speedup / cell.workers,
            bound=one / medians["silent"] if "silent" in medians else None,
            threads_speedup=one / medians["threads"],
            oversubscribed=cell.workers > available(),
            check_error=check.error,
            samples_per_second=steps * cell.batch_size / medians["parallel"],
            steps_per_round=steps,
            rounds=rounds,
            profile=profile or {},
            note=check.note,
            single_steps=single_steps or {},
            machine=machine or {},
            operations=operations or [],
        )


def measurements(
    raced: Mapping[str, tuple[Cell, Check]],
    rounds: Rounds,
    plain: str,
    threads: str,
    machine: State | None = None,
) -> list[Measurement]:
    """Compare contenders that took turns with one of them, as cells are with sequential training.

    Args:
        raced: contender -> its cell, and how its weights compare with plain training.
        plain: the contender to compare with.
        threads: the contender that uses all cores in one process.
        machine: what the machine was like in each round.
    """
    return [
        Measurement.of(
            cell,
            {
                "sequential": rounds.seconds[plain],
                "parallel": rounds.seconds[name],
                "threads": rounds.seconds[threads],
            },
            rounds.steps,
            check,
            machine=machine,
        )
        for name, (cell, check) in raced.items()
    ]


def serial_fraction(speedup: float, workers: int) -> float | None:
    """Return the share of a step that more workers do not make faster; None for a single worker.

    Karp and Flatt, "Measuring parallel processor performance" (1990), equation 2. If it grows with
    the workers, they do not lack parallel work: what they say to each other costs more.
    """
    return (1 / speedup - 1 / workers) / (1 - 1 / workers) if workers > 1 else None


def interval(sequential: ArrayLike, parallel: ArrayLike) -> tuple[float, float]:
    """95% interval of median(sequential) / median(parallel), by a bootstrap over the pairs.

    Percentile method: Efron and Tibshirani, "An introduction to the bootstrap" (1993), section
    13.3. Says how far the rounds of this launch agree, and nothing about another launch.
    """
    result = stats.bootstrap(
        (np.asarray(sequential), np.asarray(parallel)),
        lambda s, p, axis: np.median(s, axis=axis) / np.median(p, axis=axis),
        paired=True,
        n_resamples=999,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)
