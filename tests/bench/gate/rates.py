"""Simulate how often the gate is wrong; bench.gate.aa measures it on a real machine."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from mpi4py import MPI

from bench.gate import statistics
from bench.gate.statistics import Outcome
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


def simulate(noise: Noise, slowdown: float, comparisons: int, comm: MPI.Comm) -> Rates:
    """Compare 3 with 3 launches of the whole grid, with fresh launches for the cells in doubt.

    The ranks of `comm` share the comparisons; the rates do not depend on the number of ranks.
    """
    alarms = found = inconclusive = 0
    for number in range(comm.rank, comparisons, comm.size):
        rng = np.random.default_rng(number)
        cell = CELLS[number % len(CELLS)]
        program = Program().slowed(cell, slowdown) if slowdown else Program()
        before, after = measure(rng, noise), measure(rng, noise, program)
        verdicts = statistics.judge(before, after)
        if doubtful := statistics.cells_to_confirm(verdicts):
            again = measure(rng, noise, program, statistics.FRESH_LAUNCHES)
            verdicts = statistics.judge(before, after, {c: again[c] for c in doubtful})
        failed = {v.cell for v in verdicts if v.outcome in statistics.FAILED}
        found += slowdown > 0 and cell in failed
        alarms += bool(failed - {cell} if slowdown else failed)
        inconclusive += any(v.outcome is Outcome.INCONCLUSIVE for v in verdicts)
    counts = np.array([alarms, found, inconclusive])
    comm.Allreduce(MPI.IN_PLACE, counts)
    return Rates(*map(float, counts / comparisons))
