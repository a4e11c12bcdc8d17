"""Simulate how often the gate is wrong; bench.gate.aa measures it on a real machine."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from mpi4py import MPI

from bench.gate import statistics
from bench.gate.statistics import CellLaunches, Outcome, Verdict
from tests.bench.gate.noise import CELLS, Noise, Program, measure


@dataclass(frozen=True)
class Rates:
    """Shares of whole-grid comparisons.

    Attributes:
        alarms: a cell of unchanged code failed.
        found: the slowed cell failed.
        inconclusive: some cell was left without a verdict.
    """

    alarms: float
    found: float
    inconclusive: float


def simulate(
    noise: Noise,
    slowdown: float,
    comparisons: int,
    comm: MPI.Comm,
    fresh: int = statistics.FRESH_LAUNCHES,
    more: int = 0,
) -> Rates:
    """Compare 3 with 3 launches of the whole grid, with fresh launches for the cells in doubt.

    The ranks of `comm` share the comparisons; the rates do not depend on the number of ranks.

    Args:
        fresh, more: launches of the cells in doubt, after and before.
    """
    alarms = found = inconclusive = 0
    for number in range(comm.rank, comparisons, comm.size):
        rng = np.random.default_rng(number)
        cell = CELLS[number % len(CELLS)]
        program = Program().slowed(cell, slowdown) if slowdown else Program()
        verdicts = _compare(rng, noise, program, fresh, more)
        failed = {v.cell for v in verdicts if v.outcome in statistics.FAILED}
        found += slowdown > 0 and cell in failed
        alarms += bool(failed - {cell} if slowdown else failed)
        inconclusive += any(v.outcome is Outcome.INCONCLUSIVE for v in verdicts)
    counts = np.array([alarms, found, inconclusive])
    comm.Allreduce(MPI.IN_PLACE, counts)
    return Rates(*map(float, counts / comparisons))


def _compare(
    rng: np.random.Generator, noise: Noise, program: Program, fresh: int, more: int
) -> list[Verdict]:
    def relaunch(cells: Collection[str]) -> tuple[CellLaunches, CellLaunches]:
        new = measure(rng, noise, program, fresh)
        old = measure(rng, noise, launches=more)
        return {cell: old[cell] for cell in cells}, {cell: new[cell] for cell in cells}

    before, after = measure(rng, noise), measure(rng, noise, program)
    return statistics.judge_and_confirm(before, after, relaunch)
