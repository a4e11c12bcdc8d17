"""Many ways to train one net in one run: in every round each takes its turn, on the same batches.

The arms of `bench.measure` are those of one strategy; here are all strategies, and programs that
are none. The rounds of any two are pairs.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
from mpi4py import MPI

from bench.cores import available
from bench.measure import SHORTEST_ROUND, Cell, Measurement, alone, interval, together
from nn.batch import Batch

ROUNDS = 9


@dataclass(frozen=True)
class Entrant:
    """One way to train.

    Attributes:
        step: one training step.
        workers: ranks that take part: all, or, if 1, rank 0 while the others sleep.
        error: see `Measurement.check_error`.
        note: what a reader of the result must know.
        within: entered by rank 0 around a round.
    """

    step: Callable[[Batch], object]
    workers: int
    error: float | None = None
    note: str = ""
    within: Callable[[], AbstractContextManager] = nullcontext


def race(
    entrants: Mapping[str, Entrant], batches: Sequence[Batch], comm: MPI.Intracomm
) -> tuple[dict[str, list[float]], int]:
    """Seconds of every round of each entrant, and how many steps a round has. Collective."""

    def turn(entrant: Entrant, first: int, steps: int) -> float:
        def run(first: int, steps: int) -> None:
            for i in range(first, first + steps):
                entrant.step(batches[i % len(batches)])

        with entrant.within() if comm.rank == 0 else nullcontext():
            return (alone if entrant.workers == 1 else together)(comm, run, first, steps)

    # As long as to make the fastest last long enough; every rank comes to the same number.
    fastest = min(turn(entrant, 0, 2) / 2 for entrant in entrants.values())
    steps = math.ceil(SHORTEST_ROUND / fastest)
    rounds: dict[str, list[float]] = {name: [] for name in entrants}
    order = list(entrants)
    for i in range(ROUNDS):
        for name in order:
            rounds[name].append(turn(entrants[name], i * steps, steps))
        order.reverse()
    return rounds, steps


def paired_ratio(over: Sequence[float], under: Sequence[float]) -> float:
    """How much longer one entrant takes than another: the median over rounds of their ratio.

    What slows a whole round leaves its ratio alone. Where rounds have nothing in common it is as
    good as the ratio of the medians, and else it varies less.
    """
    return float(np.median(np.divide(over, under)))


def measurements(
    entrants: Mapping[str, Entrant],
    rounds: Mapping[str, list[float]],
    steps: int,
    cell: Callable[[str, int], Cell],
    plain: str,
    threads: str,
) -> list[Measurement]:
    """The results of a race, over the entrant `plain`, by the same formulas as those of a cell.

    Args:
        cell: name and workers of an entrant -> its cell.
        threads: the entrant that uses all cores in one process.
    """
    found = []
    medians = {name: float(np.median(times)) for name, times in rounds.items()}
    for name, entrant in entrants.items():
        if name == plain:
            continue
        of = cell(name, entrant.workers)
        low, high = interval(rounds[plain], rounds[name])
        speedup = medians[plain] / medians[name]
        found.append(
            Measurement(
                cell=of,
                speedup=speedup,
                speedup_low=low,
                speedup_high=high,
                efficiency=speedup / of.workers,
                bound=None,
                threads_speedup=medians[plain] / medians[threads],
                oversubscribed=of.workers > available(),
                check_error=entrant.error,
                samples_per_second=steps * of.batch_size / medians[name],
                steps_per_round=steps,
                rounds={"sequential": rounds[plain], "parallel": rounds[name]},
                profile={},
                note=entrant.note,
            )
        )
    return found
