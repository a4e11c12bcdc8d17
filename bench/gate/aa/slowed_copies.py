"""Measure the cells of the gate's own trial, and copies whose parallel arm is slower by design.

    LOCKSTEP_CELLS=FILE mpiexec -n 2 python -m bench.gate.aa.slowed_copies AMOUNT ...

measures every cell of GRID as it is, and once more with each step stretched by one of the amounts
(0.1 is 10%), which take turns from cell to cell. All cells of a batch size are one race, as in the
common grid. bench.gate.aa starts this program.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import replace

from mpi4py import MPI

from bench.core.cell import Case, Cell
from bench.core.grid import case
from bench.core.race import race
from nn import Batch
from strategies import Strategy
from strategies.records import RunFile

NAME = "bench.gate.aa.slowed_copies"

GRID = [
    (strategy, batch_size)
    for strategy in ("DataParallel", "SharedDataParallel")
    for batch_size in (64, 256, 1024)
]


def slowed(strategy: Strategy, amount: float) -> Strategy:
    """Let steps of a strategy take (1 + amount) times as long: each rank is busy for the rest."""
    plain = strategy.step

    def step(batch: Batch) -> float:
        start = time.perf_counter()
        loss = plain(batch)
        end = start + (time.perf_counter() - start) * (1 + amount)
        while time.perf_counter() < end:
            pass
        return loss

    strategy.step = step  # type: ignore[method-assign]
    return strategy


def slowed_copy(original: Case, amount: float) -> Case:
    """Return the case with a slower parallel arm, and no bound, which would be slower too."""
    return replace(
        original, build=lambda comm: slowed(original.build(comm), amount), runs_silent=False
    )


def main() -> None:
    comm = MPI.COMM_WORLD
    amounts = [float(argument) for argument in sys.argv[1:]]
    file = RunFile(os.environ["LOCKSTEP_CELLS"], {"program": NAME})
    races: dict[int, dict[str, Case]] = {}
    for number, (strategy, batch_size) in enumerate(GRID):
        cell = Cell(strategy, "mlp", comm.size, batch_size, 10_000)
        plain = replace(case(cell), runs_silent=False)
        variants = races.setdefault(batch_size, {})
        variants[str(cell)] = plain
        if amounts:
            amount = amounts[number % len(amounts)]
            variants[f"{cell}+{amount:.0%}"] = slowed_copy(plain, amount)
    for variants in races.values():
        for name, result in zip(variants, race(list(variants.values()), comm)):
            if isinstance(result, Exception):
                raise result
            if comm.rank == 0:
                # The reader of launches asks for the test of a cell; this program is none.
                own = {"background_load": result.background_load, "nodeid": NAME}
                file.append({"id": name, **result.as_dict(), **own})


if __name__ == "__main__":
    main()
