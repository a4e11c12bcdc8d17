"""How often the gate errs, by simulation; what bench.gate.aa measures on a real machine."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from mpi4py import MPI

from bench.gate import statistics
from bench.gate.statistics import Outcome
from tests.bench.gate.noise import CELLS, Noise, Program, side


@dataclass(frozen=True)
class Rates:
    """Shares of whole-grid comparisons."""

    alarms: float
    """A cell of unchanged code failed."""
    found: float
    """The slowed cell failed (of comparisons with one)."""
    inconclusive: float
    """Some cell was left without a verdict."""


def simulate(noise: Noise, slowdown: float, comparisons: int, comm: MPI.Comm) -> Rates:
    """Whole-grid comparisons of 3 against 3 launches, and fresh ones for what they leave open.

    The ranks of `comm` share them out; the rates are the same on however many.
    """
    alarms = found = inconclusive = 0
    for number in range(comm.rank, comparisons, comm.size):
        rng = np.random.default_rng(number)
        cell = CELLS[number % len(CELLS)]
        program = Program().slowed(cell, slowdown) if slowdown else Program()
        before, after = side(rng, noise), side(rng, noise, program)
        verdicts = statistics.judge(before, after)
        if doubtful := statistics.unsettled(verdicts):
            again = side(rng, noise, program, statistics.FRESH)
            verdicts = statistics.judge(before, after, {c: again[c] for c in doubtful})
        failed = {v.cell for v in verdicts if v.outcome in statistics.FAILED}
        found += slowdown > 0 and cell in failed
        alarms += bool(failed - {cell} if slowdown else failed)
        inconclusive += any(v.outcome is Outcome.INCONCLUSIVE for v in verdicts)
    counts = np.array([alarms, found, inconclusive])
    comm.Allreduce(MPI.IN_PLACE, counts)
    return Rates(*map(float, counts / comparisons))
