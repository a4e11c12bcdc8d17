"""The measuring core: is a strategy right, and how much faster is it than one process?

One cell at a time, in one launch. First the check, for the speed of wrong training means nothing.
Then rounds, in each of which every arm takes its turn on the same batches: what disturbs the
machine for longer than a round slows all arms alike and leaves their ratio alone.

============ ======================================================================================
sequential   plain training on rank 0, one thread, while the other ranks sleep
parallel     the strategy, on all ranks
silent       the strategy without messages or shared memory: what the ranks compute, side by side
threads      plain training on rank 0, with all cores as threads, while the other ranks sleep
============ ======================================================================================

A rank that waits in MPI spins, and takes half the speed of the one that is measured where they
share a core; hence the sleep. Knows nothing of pytest.
"""

import gc
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field

import numpy as np
from mpi4py import MPI
from numpy.typing import ArrayLike
from scipy import stats

from bench.core.cores import all_cores, available
from bench.core.metering import Metered, Silent
from nn.batch import Batch
from nn.plain_json import INLINE
from strategies.base import Strategy
from strategies.records import Record

SHORTEST_ROUND = 0.05
"""Seconds. Shorter ones are at the mercy of a single time slice given to somebody else."""

ROUNDS = (5, 15)
"""Fewest and most rounds of a cell."""

THREADS_EVERY = 3
"""The arm of threads takes part in one round of this many: it has to cool down each time."""

LONGEST_THREADS = 0.5
"""Seconds of a round of threads, which lasts a hundred times as long where others use the cores."""

CHECK_TOLERANCE = {"float32": 1e-3, "float64": 1e-9}
"""Largest difference from sequential weights, relative to the largest distance that they moved."""


@dataclass(frozen=True)
class Cell:
    """What is measured, in the public names of a result."""

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
class Check:
    """The outcome of training side by side.

    Attributes:
        error: see `Measurement.check_error`.
        problem: why the cell must not be measured; empty if it may.
        note: what a reader of the result must know.
    """

    error: float | None = None
    problem: str = ""
    note: str = ""


class WrongTraining(Exception):
    """A cell that has no speedup, since its strategy does not train what it should."""

    def __init__(self, cell: "Cell", check: Check):
        super().__init__(f"{cell.strategy}: {check.problem}")
        self.cell, self.check = cell, check


Checker = Callable[[Strategy, Strategy, Sequence[Batch], MPI.Intracomm], Check]


@dataclass(frozen=True)
class Case:
    """How a cell is trained.

    Attributes:
        build: the strategy on a communicator; collective.
        sequential: the same model and optimizer, trained plainly.
        batches: global batches of equal size that the arms take in turn, again and again.
        check_batches: global batches of the check; some that do not divide by the workers.
        check: compares the two; `equals_sequential` unless the strategy promises something else.
        runs_silent: whether the strategy runs on without messages; not if it acts on what they say.
    """

    cell: Cell
    build: Callable[[MPI.Intracomm], Strategy]
    sequential: Callable[[], Strategy]
    batches: Sequence[Batch]
    check_batches: Sequence[Batch]
    check: Checker = field(default_factory=lambda: equals_sequential)
    runs_silent: bool = True


@dataclass(frozen=True)
class Measurement(Record, kind="cell"):
    """A measured cell; ratios are of medians over rounds, times are in seconds.

    Attributes:
        speedup, speedup_low, speedup_high: over sequential, with a 95% interval over the paired
            rounds of this launch (launches differ by more than that).
        efficiency: speedup / workers.
        bound: the speedup if communication were free; None if that cannot be measured.
        threads_speedup: of one process with all cores as threads, over sequential.
        oversubscribed: more workers than cores.
        check_error: largest difference from the sequential weights, relative to the largest
            distance that they moved; None if the strategy makes no such promise.
        samples_per_second: rows trained on by the strategy.
        steps_per_round: training steps in every round of every arm; times of threads that had to
            do with fewer (see LONGEST_THREADS) are scaled up to it.
        rounds: arm -> seconds of each of its rounds; sequential and parallel rounds are pairs.
        profile: share of the time of every rank, in a round of its own, that went to compute,
            communication and waiting, and the bytes that it sent per step.
        note: what the reader must know of the check.
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

    @classmethod
    def of(
        cls,
        cell: Cell,
        rounds: dict[str, list[float]],
        steps: int,
        check: Check,
        profile: dict[str, list[float]] | None = None,
    ) -> "Measurement":
        """What rounds of so many steps amount to; the arm "silent" may be missing."""
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
        )


def measure(
    case: Case, comm: MPI.Intracomm, seconds: float = 2.0, steps: int | None = None
) -> Measurement:
    """Check a cell, then measure it. Collective over `comm`; the same result on every rank.

    Args:
        case: what to build and train, the same on every rank.
        comm: the workers.
        seconds: to spend on the rounds, as far as the limits of ROUNDS allow.
        steps: in a round; by default as many as make it last SHORTEST_ROUND.

    Raises:
        WrongTraining: the check has failed; on every rank.
        ValueError: `comm` does not have as many ranks as the cell has workers, or no batches.
    """
    cell = case.cell
    if comm.size != cell.workers:
        raise ValueError(f"a cell of {cell.workers} workers on a communicator of {comm.size}")
    if not case.batches:
        raise ValueError(f"no batch of {cell.batch_size} rows in {cell.dataset_size} rows")
    sequential, parallel = case.sequential(), case.build(comm)
    check = case.check(parallel, sequential, case.check_batches, comm)
    if check.problem:
        raise WrongTraining(cell, check)

    silent = Silent(comm)
    with silent.private_memory():
        bound = case.build(silent) if case.runs_silent else None
    turns = _turns(case, comm, sequential, parallel, bound, silent)
    steps = steps or _steps_per_round(turns)
    with _no_garbage_collection():
        rounds = _rounds(turns, steps, seconds)
        profile = _profile(case, comm, steps)
    parallel.close()
    if bound:
        bound.close()
    return Measurement.of(cell, rounds, steps, check, profile)


def interval(sequential: ArrayLike, parallel: ArrayLike) -> tuple[float, float]:
    """95% interval of median(sequential) / median(parallel), by resampling the pairs."""
    result = stats.bootstrap(
        (np.asarray(sequential), np.asarray(parallel)),
        lambda s, p, axis: np.median(s, axis=axis) / np.median(p, axis=axis),
        paired=True,
        n_resamples=999,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


# The check


def equals_sequential(
    parallel: Strategy, sequential: Strategy, batches: Sequence[Batch], comm: MPI.Intracomm
) -> Check:
    """Train both on the same batches, and compare the weights on every rank."""
    start = sequential.weights()
    for batch in batches:
        parallel.step(batch)
        if comm.rank == 0:
            sequential.step(batch)
    expected = sequential.weights()
    comm.Bcast(expected)
    moved = np.abs(expected - start).max()
    worst = np.array([np.abs(parallel.weights() - expected).max() / moved if moved else np.inf])
    worst[~np.isfinite(worst)] = np.inf  # MPI's maximum may drop a NaN
    comm.Allreduce(MPI.IN_PLACE, worst, MPI.MAX)
    error = float(worst[0])
    tolerance = CHECK_TOLERANCE[str(expected.dtype)]
    if not moved:
        return Check(problem="sequential training did not move the weights: nothing to compare")
    if error <= tolerance:
        return Check(error)
    return Check(
        error,
        f"after {len(batches)} steps the weights differ from those of sequential training by "
        f"{error:.2g} of the distance that they moved; rounding explains at most {tolerance:g}",
    )


def unchecked(reason: str) -> Checker:
    """The check of a strategy that by design is not equal to sequential training."""
    return lambda parallel, sequential, batches, comm: Check(note=reason)


# The arms

Turn = Callable[[int, int], float]
"""(first batch, number of steps) -> seconds, the same number on every rank."""


def _turns(
    case: Case,
    comm: MPI.Intracomm,
    sequential: Strategy,
    parallel: Strategy,
    bound: Strategy | None,
    silent: Silent,
) -> dict[str, Turn]:
    def train(step: Callable[[Batch], object]) -> Callable[[int, int], None]:
        def run(first: int, steps: int) -> None:
            for i in range(first, first + steps):
                step(case.batches[i % len(case.batches)])

        return run

    def threads(first: int, steps: int) -> float:
        with all_cores() if comm.rank == 0 else nullcontext():
            run = train(sequential.step)
            few = min(steps, math.ceil(LONGEST_THREADS / alone(comm, run, first, 1)))
            return alone(comm, run, first, few) * steps / few

    def silently(first: int, steps: int) -> float:
        assert bound is not None
        with silent.silence():
            return together(comm, train(bound.step), first, steps)

    turns: dict[str, Turn] = {
        "sequential": lambda first, steps: alone(comm, train(sequential.step), first, steps),
        "parallel": lambda first, steps: together(comm, train(parallel.step), first, steps),
        "threads": threads,
    }
    if bound:
        bound.step(case.batches[0])  # what receives messages holds numbers from here on
        turns["silent"] = silently
    return turns


def together(comm: MPI.Intracomm, run: Callable[[int, int], None], first: int, steps: int) -> float:
    """Time `run(first, steps)` on all ranks: the slowest rank's, from barrier to barrier."""
    run(first, 1)  # its data come back into the caches
    comm.Barrier()
    start = time.perf_counter()
    run(first, steps)
    comm.Barrier()
    seconds = np.array([time.perf_counter() - start])
    comm.Allreduce(MPI.IN_PLACE, seconds, MPI.MAX)
    return float(seconds[0])


def alone(comm: MPI.Intracomm, run: Callable[[int, int], None], first: int, steps: int) -> float:
    """Time `run(first, steps)` on rank 0 while the other ranks sleep."""
    seconds = np.zeros(1)
    if comm.rank == 0:
        run(first, 1)
        start = time.perf_counter()
        run(first, steps)
        seconds[0] = time.perf_counter() - start
    sleeping_barrier(comm)
    comm.Bcast(seconds)
    return float(seconds[0])


def sleeping_barrier(comm: MPI.Intracomm) -> None:
    """A barrier in which nobody spins."""
    request = comm.Ibarrier()
    nap = 5e-5
    while not request.Test():
        time.sleep(nap)
        nap = min(1.2 * nap, 5e-3)


def _steps_per_round(turns: Mapping[str, Turn]) -> int:
    """Steps that make the shortest arm last SHORTEST_ROUND; all ranks come to the same number."""
    steps = 1
    while True:
        shortest = min(turns["sequential"](0, steps), turns["parallel"](0, steps))
        if shortest > SHORTEST_ROUND / 5:
            return math.ceil(steps * SHORTEST_ROUND / shortest)
        steps *= 4


def _rounds(turns: Mapping[str, Turn], steps: int, seconds: float) -> dict[str, list[float]]:
    """Every arm in turn, in alternating order, for about `seconds`."""
    rounds: dict[str, list[float]] = {arm: [] for arm in turns}
    order = [arm for arm in ("sequential", "parallel", "silent") if arm in turns]
    for i in range(ROUNDS[1]):
        if i >= ROUNDS[0] and sum(map(sum, rounds.values())) > seconds:
            break
        for arm in order:
            rounds[arm].append(turns[arm](i * steps, steps))
        if i % THREADS_EVERY == 0:
            rounds["threads"].append(turns["threads"](i * steps, steps))
        order.reverse()
    return rounds


def _profile(case: Case, comm: MPI.Intracomm, steps: int) -> dict[str, list[float]]:
    """Where the time of each rank goes; shares of the whole, and bytes per step."""
    metered = Metered(comm)
    record = metered.record
    strategy = case.build(metered)
    strategy.step(case.batches[0])
    comm.Barrier()
    record.clear()
    start = time.perf_counter()
    with metered.timed_requests():
        for i in range(steps):
            strategy.step(case.batches[i % len(case.batches)])
    total = time.perf_counter() - start
    waiting, communication = record.waiting / total, record.communication / total
    mine = np.array([1 - waiting - communication, communication, waiting])
    mine = np.append(mine, sum(record.sent.values()) / steps)
    strategy.close()
    everyone = np.empty((comm.size, len(mine)))
    comm.Allgather(mine, everyone)
    names = ("compute", "communication", "waiting", "bytes_sent")
    return dict(zip(names, everyone.T.tolist()))


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
