"""Whether a strategy trains what it should, which is asked before it is timed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from mpi4py import MPI

from bench.core.rounding import measurable
from nn.batch import Batch
from strategies.base import Strategy

if TYPE_CHECKING:
    from bench.core.cell import Cell

CHECK_TOLERANCE = {"float32": 1e-3, "float64": 1e-9}
"""Largest difference from sequential weights, relative to the largest distance that they moved."""


@dataclass(frozen=True)
class Check:
    """The outcome of a check.

    Attributes:
        error: largest difference from the sequential weights, relative to the largest distance
            that they moved; None if they were not compared.
        problem: why the cell must not be measured; empty if it may.
        note: what a reader of the result must know.
    """

    error: float | None = None
    problem: str = ""
    note: str = ""


class WrongTraining(Exception):
    """The strategy of a cell does not train what it should, so the cell has no speedup."""

    def __init__(self, cell: Cell, check: Check):
        super().__init__(f"{cell.strategy}: {check.problem}")
        self.cell, self.check = cell, check


Checker: TypeAlias = Callable[[Strategy, Strategy, Sequence[Batch], MPI.Intracomm], Check]
"""(parallel, sequential, batches, comm) -> the outcome; collective over `comm`."""


def uneven_rows(workers: int, batch_size: int) -> int:
    """Return the rows of a batch for the check, whose shards are uneven if there are several.

    It is small: a mean of the ranks' means differs by 1 part in 2,000 in a batch of 63 rows on two
    ranks, which is less than `CHECK_TOLERANCE`, and by a tenth in a batch of 5. Where the rows of
    a batch allow it, each shard has two rows or more.
    """
    rows = min(batch_size, 2 * workers + 1)
    return rows - 1 if workers > 1 and rows % workers == 0 else rows


def equals_sequential(
    parallel: Strategy, sequential: Strategy, batches: Sequence[Batch], comm: MPI.Intracomm
) -> Check:
    """Train both on the same batches, and compare the weights on every rank.

    A difference above `CHECK_TOLERANCE` is held against what rounding explains, measured on rank 0.
    """
    start, rounding = sequential.weights(), measurable(sequential, batches)
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
    allowed, problem = np.zeros_like(expected), ""
    if comm.rank == 0 and rounding:
        explained = rounding.after(len(batches) - 1)
        allowed, problem = explained.weights, explained.problem
    comm.Bcast(allowed)
    problem = comm.bcast(problem)
    np.maximum(allowed, tolerance * moved, out=allowed)
    beyond = ~(np.abs(parallel.weights() - expected) <= allowed)
    if not problem and not comm.allreduce(bool(beyond.any()), MPI.LOR):
        return Check(error)
    return Check(
        error,
        f"after {len(batches)} steps the weights differ from those of sequential training by "
        f"{error:.2g} of the distance that they moved; "
        + (problem or f"rounding explains at most {allowed.max() / moved:.2g}"),
    )


def unchecked(reason: str) -> Checker:
    """Make the check of a strategy that by design does not equal sequential training."""
    return lambda parallel, sequential, batches, comm: Check(note=reason)
