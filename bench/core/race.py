"""Races: everything with the same net, batch size, data set and device takes turns in one go.

Four phases, which bench/README.md explains: check, calibration, rounds, profile. The contenders:

========== ========================================================================================
sequential plain training on rank 0, with one thread, while the other ranks sleep
threads    plain training on rank 0, with all cores as threads, while the other ranks sleep
parallel   a strategy, on as many ranks as its cell has workers, while the others sleep
silent     the strategy without messages or shared memory: what its ranks compute, side by side
========== ========================================================================================

The last two are there for every cell, the first two once for all.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, cast

import numpy as np
from mpi4py import MPI

from bench.core.arms import LONGEST_TURN, alone, among, bounded, together, training, within
from bench.core.cell import Case, Cell, Measurement
from bench.core.check import Check, WrongTraining
from bench.core.cores import all_cores, available
from bench.core.machine_state import MachineState, State
from bench.core.profile import profile, single_steps
from bench.core.silence import Silent
from bench.core.turns import Contender, Rounds, Turn, take_turns
from strategies.comm.on_rank_0 import sleeping_barrier
from strategies.comm.raise_together import raise_together

ROUNDS = (5, 15)
"""Fewest and most rounds of a race."""

SECONDS = 2.0
"""For the rounds of a race of one cell."""

SECONDS_EACH = 1.2
"""For the rounds of a race of several, times their number."""

MEMORY = 2**31
"""Bytes that all contenders of a race may keep on a rank, as far as they can be foreseen."""

COPIES = 12
"""A cell keeps at most so many vectors as long as the parameters: parameters, gradients and a few
of the optimizer's, of the strategy and of its silent copy."""


def measure(
    case: Case, comm: MPI.Intracomm, seconds: float | None = None, steps: int | None = None
) -> Measurement:
    """Race a cell against plain training alone. Collective; the same result on every rank.

    Args:
        case: what to build and train, the same on every rank.
        comm: the workers.
        seconds, steps: see `race`.

    Raises:
        WrongTraining: the check has failed; on every rank.
        ValueError: `comm` does not have as many ranks as the cell has workers, or there are no
            batches, or no steps.
        Exception: what building or checking the strategy raised on any rank; on every rank.
    """
    if comm.size != case.cell.workers:
        raise ValueError(f"a cell of {case.cell.workers} workers on a communicator of {comm.size}")
    (outcome,) = race([case], comm, seconds, steps)
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def race(
    cases: Sequence[Case],
    comm: MPI.Intracomm,
    seconds: float | None = None,
    steps: int | None = None,
) -> list[Measurement | Exception]:
    """Check cells, then let them take turns. Collective over `comm`; the same on every rank.

    Cells that need more memory together than MEMORY are divided into races of their own, each with
    its own plain training and threads.

    Args:
        cases: their cells differ in strategy and workers only, and train on the same batches.
        comm: a cell takes the first of its ranks.
        seconds: to spend on the rounds, as far as the limits of ROUNDS allow; by default SECONDS
            or SECONDS_EACH.
        steps: in a turn; by default as many as make the shortest turn of plain training, and of
            strategies that have a core for each worker, last `turns.SHORTEST_TURN`.

    Returns:
        For each case its measurement, or the exception that kept it from being measured: what
        building it raised, or `WrongTraining`.

    Raises:
        ValueError: cells of different races, a cell with more workers than `comm` has ranks, no
            batches, or no steps.
    """
    for case in cases:
        cell = case.cell
        if raced_with(cell) != raced_with(cases[0].cell):
            raise ValueError(f"{cell} and {cases[0].cell}: expected cells of one race")
        if cell.workers > comm.size:
            raise ValueError(f"{cell} on a communicator of {comm.size}")
        if not case.batches:
            raise ValueError(f"no batch of {cell.batch_size} rows in {cell.dataset_size} rows")
    outcomes: list[Measurement | Exception] = []
    for heat in _heats(cases):
        outcomes += _race(heat, comm, seconds, steps)
    return outcomes


def raced_with(cell: Cell) -> tuple[str, int, int, str]:
    """Return what cells of one race have in common."""
    return cell.model, cell.batch_size, cell.dataset_size, cell.device


def _heats(cases: Sequence[Case]) -> Iterator[Sequence[Case]]:
    """Divide cells into groups that fit into MEMORY; a cell that does not fit is alone."""
    size = cases[0].sequential().model.params.nbytes
    most = max(1, MEMORY // (COPIES * size))
    for first in range(0, len(cases), most):
        yield cases[first : first + most]


class _Entrant:
    """A cell that takes part in a race, on the first ranks of `comm`. Collective.

    Attributes:
        workers: the communicator of its ranks; COMM_NULL on the others, which have no strategy.

    Raises:
        WrongTraining: the check has failed; on every rank.
        Exception: what building or checking raised on any rank; on every rank.
    """

    def __init__(self, case: Case, comm: MPI.Intracomm) -> None:
        self.case, self._comm = case, comm
        takes_part = comm.rank < case.cell.workers
        self.workers = cast(MPI.Intracomm, comm.Split(0 if takes_part else MPI.UNDEFINED))
        self._takes_part = self.workers != MPI.COMM_NULL
        # Workers communicate in it. If one of them alone fails while the others wait for it, they
        # wait until the deadline of the test, as in any program.
        self.check: Check = comm.bcast(raise_together(comm, self._build_and_check))
        if self.check.problem:
            self.close()
            raise WrongTraining(case.cell, self.check)

    def _build_and_check(self) -> Check | None:
        if not self._takes_part:
            return None
        case, workers = self.case, self.workers
        self._parallel = raise_together(workers, lambda: case.build(workers))
        check = case.check(self._parallel, case.sequential(), case.check_batches, workers)
        self._without_messages = None
        if case.runs_silent and not check.problem:
            self._silent = Silent(workers)
            with self._silent.private_memory():
                self._without_messages = case.build(self._silent)
            self._without_messages.step(case.batches[0])  # buffers hold numbers from here on
        return check

    def contenders(self) -> dict[str, Contender]:
        """Return its arms by name; with more workers than cores they do not set the pace."""
        crowded = self.case.cell.workers > available()
        found = {"parallel": Contender(self._turn("_parallel"), paces=not crowded)}
        if self.case.runs_silent:
            found["silent"] = Contender(self._turn("_without_messages"), paces=False)
        return found

    def _turn(self, name: str) -> Turn:
        if not self._takes_part:
            return among(self._comm, self.workers, lambda first, steps: 0.0)
        strategy = getattr(self, name)
        turn: Turn = partial(together, self.workers, training(strategy.step, self.case.batches))
        if strategy is self._without_messages:
            turn = within(self._silent.silence, turn)
        period = getattr(strategy, "period", 1)
        turn = bounded(turn, period if isinstance(period, int) else 1)
        alone = self.workers.size < self._comm.size
        return among(self._comm, self.workers, turn) if alone else turn

    def look_inside(self, seconds: float, steps: int) -> dict[str, Any]:
        """Profile it for so many steps, and time single steps for about so many seconds."""
        found = None
        if self._takes_part:
            found = {
                "single_steps": single_steps(self._parallel, self.case, self.workers, seconds),
                "profile": profile(self.case, self.workers, steps),
            }
        sleeping_barrier(self._comm)
        return self._comm.bcast(found)

    def close(self) -> None:
        if self._takes_part:
            for strategy in (self._parallel, self._without_messages):
                if strategy is not None:
                    strategy.close()
            self.workers.Free()


def _enter(case: Case, comm: MPI.Intracomm) -> _Entrant | Exception:
    try:
        return _Entrant(case, comm)
    except Exception as error:  # it takes no part; its caller says so
        return error


def _race(
    cases: Sequence[Case], comm: MPI.Intracomm, seconds: float | None, steps: int | None
) -> list[Measurement | Exception]:
    """Race cells that fit into memory together."""
    entered = [_enter(case, comm) for case in cases]
    entrants = [each for each in entered if isinstance(each, _Entrant)]
    if not entrants:
        return [each for each in entered if isinstance(each, Exception)]
    contenders = _plain(cases[0], comm)
    for i, entrant in enumerate(entrants):
        contenders |= {f"{arm} {i}": turn for arm, turn in entrant.contenders().items()}
    if seconds is None:
        seconds = SECONDS if len(entrants) == 1 else SECONDS_EACH * len(entrants)
    machine = MachineState(comm)
    with _no_garbage_collection():
        rounds = take_turns(
            contenders, ROUNDS, steps=steps, seconds=seconds, before_round=machine.look
        )
        state = machine.close()
        measured = [_measurement(entrant, i, rounds, state) for i, entrant in enumerate(entrants)]
    for entrant in entrants:
        entrant.close()
    results = iter(measured)
    return [each if isinstance(each, Exception) else next(results) for each in entered]


def _plain(case: Case, comm: MPI.Intracomm) -> dict[str, Contender]:
    """Return the arms that are there once for all cells."""
    work = training(case.sequential().step, case.batches)
    cores = all_cores if comm.rank == 0 else nullcontext
    threads = bounded(within(cores, partial(alone, comm, work)))
    return {
        "sequential": Contender(partial(alone, comm, work)),
        "threads": Contender(threads, paces=False),
    }


def _measurement(entrant: _Entrant, i: int, rounds: Rounds, state: State) -> Measurement:
    """Look inside a cell, and put its figures together."""
    arms = {"sequential": "sequential", "parallel": f"parallel {i}", "threads": "threads"}
    if entrant.case.runs_silent:
        arms["silent"] = f"silent {i}"
    times = {arm: rounds.seconds[name] for arm, name in arms.items()}
    per_step = float(np.median(times["parallel"])) / rounds.steps
    inside = entrant.look_inside(
        2 * LONGEST_TURN, min(rounds.steps, math.ceil(LONGEST_TURN / per_step))
    )
    return Measurement.of(
        entrant.case.cell, times, rounds.steps, entrant.check, machine=state, **inside
    )


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
