"""Many ways to train one net in one run: in every round each takes its turn, on the same batches.

The arms of `bench.core.measure` are those of one strategy; here are all strategies, and programs
that are none. The rounds of any two are pairs.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from mpi4py import MPI

from bench.core.measure import SHORTEST_ROUND, Cell, Check, Measurement, alone, together
from nn.batch import Batch

ROUNDS = 9


@dataclass(frozen=True)
class Entrant:
    """One way to train.

    Attributes:
        step: one training step.
        workers: ranks that take part: all, or, if 1, rank 0 while the others sleep.
        check: how its weights compare with those of plain training.
        within: entered by rank 0 around a round.
    """

    step: Callable[[Batch], object]
    workers: int
    check: Check = field(default_factory=Check)
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


def measurements(
    entrants: Mapping[str, Entrant],
    rounds: Mapping[str, list[float]],
    steps: int,
    cell: Callable[[str, int], Cell],
    plain: str,
    threads: str,
) -> list[Measurement]:
    """The results of a race, over the entrant `plain`, as those of cells.

    Args:
        cell: name and workers of an entrant -> its cell.
        threads: the entrant that uses all cores in one process.
    """
    return [
        Measurement.of(
            cell(name, entrant.workers),
            {"sequential": rounds[plain], "parallel": rounds[name], "threads": rounds[threads]},
            steps,
            entrant.check,
        )
        for name, entrant in entrants.items()
        if name != plain
    ]
