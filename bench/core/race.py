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
import time
from collections.abc import Iterator, Mapping, Sequence
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
from bench.core.profile import operations, profile, single_steps
from bench.core.silence import Silent
from bench.core.turns import Contender, Rounds, Turn, take_turns
from strategies.base import Strategy
from strategies.comm.raise_together import raise_together

ROUNDS = (5, 15)
"""Fewest and most rounds of a race."""

SECONDS = 2.0
"""For the rounds of a race of one cell."""

SECONDS_EACH = 1.2
"""For the rounds of a race of several, times their number."""

MEMORY = 2**31
"""Bytes that the parameters of a race, and what is as long as they are, may take on a rank."""


def vectors(workers: int) -> int:
    """Return how many vectors as long as the parameters a cell may keep on a rank.

    Parameters, gradients and two of the optimizer's, and a shared window with a row for each
    worker; and as many in the copy without messages, which shares nothing.
    """
    return 2 * (4 + workers)


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


def turns_on(
    comm: MPI.Intracomm, contenders: Mapping[str, Contender], *rounds: Any, **options: Any
) -> tuple[Rounds, State]:
    """Let contenders take turns, and look at the machine before every round. Collective.

    Args:
        rounds, options: for `take_turns`.
    """
    machine = MachineState(comm)

    def seconds() -> float:
        return comm.bcast(time.perf_counter())

    try:
        found = take_turns(contenders, *rounds, **options, before_round=machine.look, clock=seconds)
    except MPI.Exception:  # a rank has died: nothing can be closed together any more
        raise
    except Exception:
        machine.close()
        raise
    return found, machine.close()


def raced_with(cell: Cell) -> tuple[str, int, int, str]:
    """Return what cells of one race have in common."""
    return cell.model, cell.batch_size, cell.dataset_size, cell.device


def _heats(cases: Sequence[Case]) -> Iterator[list[Case]]:
    """Divide cells into groups that fit into MEMORY; a cell that does not fit is alone."""
    if not cases:
        return
    size = cases[0].sequential().model.params.nbytes
    heat: list[Case] = []
    taken = 0
    for case in cases:
        taken += size * vectors(case.cell.workers)
        if heat and taken > MEMORY:
            yield heat
            heat, taken = [], size * vectors(case.cell.workers)
        heat.append(case)
    yield heat


class _Failed(Exception):
    """A cell has failed in the rounds; on every rank.

    Attributes:
        entrant: the cell.
        error: what its strategy raised; on ranks that are no workers, that it did.
    """

    def __init__(self, entrant: _Entrant, error: Exception) -> None:
        super().__init__(str(error))
        self.entrant, self.error = entrant, error


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
        self._parallel: Strategy | None = None
        self._without_messages: Strategy | None = None
        try:
            # Workers communicate in it. If one of them alone fails while the others wait for it,
            # they wait until the deadline of the test, as in any program.
            self.check: Check = comm.bcast(raise_together(comm, self._build_and_check))
            if self.check.problem:
                raise WrongTraining(case.cell, self.check)
        except MPI.Exception:  # a rank has died: nothing can be closed together any more
            raise
        except Exception:
            self.close()
            raise

    def _build_and_check(self) -> Check | None:
        if not self._takes_part:
            return None
        case, workers = self.case, self.workers
        self._parallel = raise_together(workers, lambda: case.build(workers))
        check = case.check(self._parallel, case.sequential(), case.check_batches, workers)
        if case.runs_silent and not check.problem:
            self._silent = Silent(workers)
            with self._silent.private_memory():
                self._without_messages = case.build(self._silent)
            self._without_messages.step(case.batches[0])  # buffers hold numbers from here on
        return check

    @property
    def period(self) -> int:
        """Steps after which the strategy repeats what it does."""
        period = getattr(self._parallel, "period", 1)
        return self._comm.bcast(period if isinstance(period, int) else 1)

    def contenders(self) -> dict[str, Contender]:
        """Return its arms by name; with more workers than cores they do not set the pace."""
        crowded, period = self.case.cell.workers > available(), self.period
        found = {"parallel": Contender(self._turn(self._parallel, period), paces=not crowded)}
        if self.case.runs_silent:
            found["silent"] = Contender(self._turn(self._without_messages, period), paces=False)
        return found

    def _turn(self, strategy: Strategy | None, period: int) -> Turn:
        """Make the turn of a strategy, which ranks that are no workers do not have."""
        turn: Turn | None = None
        if strategy:
            turn = partial(together, self.workers, training(strategy.step, self.case.batches))
            if strategy is self._without_messages:
                turn = within(self._silent.silence, turn)
            turn = bounded(turn, period)
        error: Exception = RuntimeError(f"{self.case.cell}: failed on its workers")

        def told(first: int, steps: int) -> float:
            """Tell the other ranks of a failure by NaN: they sleep, and hear of a number only."""
            nonlocal error
            try:
                return turn(first, steps) if turn else 0.0
            except MPI.Exception:
                raise
            except Exception as failure:
                error = failure
                return math.nan

        def run(first: int, steps: int) -> float:
            seconds = among(self._comm, self.workers, told)(first, steps)
            if math.isnan(seconds):
                raise _Failed(self, error)
            return seconds

        return run

    def look_inside(self, seconds: float, steps: int) -> dict[str, Any]:
        """Profile it for at least so many steps, and time single steps for about so many seconds.

        Raises:
            Exception: what its strategy raised on any rank; on every rank.
        """
        steps = self.period * math.ceil(steps / self.period)

        def look() -> dict[str, Any] | None:
            if self._parallel is None:
                return None
            return {
                "single_steps": single_steps(self._parallel, self.case, self.workers, seconds),
                "profile": profile(self.case, self.workers, steps),
                "operations": operations(self._parallel, self.case, self.workers),
            }

        found = raise_together(self._comm, look)
        return self._comm.bcast(found)

    def close(self) -> None:
        for strategy in (self._parallel, self._without_messages):
            if strategy is not None:
                strategy.close()
        if self._takes_part:
            self.workers.Free()


def _race(
    cases: Sequence[Case], comm: MPI.Intracomm, seconds: float | None, steps: int | None
) -> list[Measurement | Exception]:
    """Race cells that fit into memory together. One that fails leaves the race to the others."""
    outcomes: dict[int, Measurement | Exception] = {}
    entrants: dict[int, _Entrant] = {}
    for number, case in enumerate(cases):
        try:
            entrants[number] = _Entrant(case, comm)
        except MPI.Exception:  # a rank has died: the race can be run again without it
            raise
        except Exception as error:
            outcomes[number] = error
    while entrants:
        try:
            outcomes |= _rounds(entrants, comm, seconds, steps)
        except _Failed as failed:
            (number,) = (n for n, each in entrants.items() if each is failed.entrant)
            outcomes[number] = failed.error
            entrants.pop(number).close()
        else:
            break
    for entrant in entrants.values():
        entrant.close()
    return [outcomes[number] for number in range(len(cases))]


def _rounds(
    entrants: Mapping[int, _Entrant],
    comm: MPI.Intracomm,
    seconds: float | None,
    steps: int | None,
) -> dict[int, Measurement]:
    """Time all cells in rounds, then look inside each. Collective.

    Raises:
        _Failed: a cell has failed.
    """
    contenders = _plain(next(iter(entrants.values())).case, comm)
    for number, entrant in entrants.items():
        contenders |= {f"{arm} {number}": turn for arm, turn in entrant.contenders().items()}
    if seconds is None:
        seconds = SECONDS if len(entrants) == 1 else SECONDS_EACH * len(entrants)
    with _no_garbage_collection():
        rounds, state = turns_on(comm, contenders, ROUNDS, steps=steps, seconds=seconds)
        return {
            number: _measurement(entrant, number, rounds, state)
            for number, entrant in entrants.items()
        }


def _plain(case: Case, comm: MPI.Intracomm) -> dict[str, Contender]:
    """Return the arms that are there once for all cells."""
    work = training(case.sequential().step, case.batches)
    cores = all_cores if comm.rank == 0 else nullcontext

    def threads(first: int, steps: int) -> float:
        return alone(comm, work, first, steps, warm_up=max(1, steps))

    return {
        "sequential": Contender(partial(alone, comm, work)),
        "threads": Contender(bounded(within(cores, threads)), paces=False),
    }


def _measurement(entrant: _Entrant, number: int, rounds: Rounds, state: State) -> Measurement:
    """Look inside a cell, and put its figures together."""
    arms = {"sequential": "sequential", "parallel": f"parallel {number}", "threads": "threads"}
    if entrant.case.runs_silent:
        arms["silent"] = f"silent {number}"
    times = {arm: rounds.seconds[name] for arm, name in arms.items()}
    per_step = float(np.median(times["parallel"])) / rounds.steps
    steps = min(rounds.steps, math.ceil(LONGEST_TURN / per_step))
    try:
        inside = entrant.look_inside(2 * LONGEST_TURN, steps)
    except MPI.Exception:
        raise
    except Exception as error:
        raise _Failed(entrant, error) from error
    case = entrant.case
    return Measurement.of(case.cell, times, rounds.steps, entrant.check, machine=state, **inside)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
