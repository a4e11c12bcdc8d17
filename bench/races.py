"""The races of a run: tests that measure cells of one net, batch size, data set and device.

Each cell is a test of its own. Which cells take turns is planned when all tests are known. The
first test of a race runs it, and the others find it done.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import pytest
from mpi4py import MPI

from bench.core import grid
from bench.core.cell import Case, Cell, Measurement
from bench.core.race import race, raced_with
from strategies.base import Refused
from strategies.comm.raise_together import raise_together

Outcome = Measurement | Exception


@dataclass
class PlannedRace:
    """Cells that take turns with one another, and what came out, once it is known.

    Attributes:
        cases: cell -> says how it is trained.
        tests: cell -> node id of the first test that measures it.
        outcomes: cell -> its measurement, or what kept it from being measured.
    """

    cases: dict[Cell, Callable[[], Case]] = field(default_factory=dict)
    tests: dict[Cell, str] = field(default_factory=dict)
    outcomes: dict[Cell, Outcome] = field(default_factory=dict)

    @property
    def workers(self) -> int:
        """The most workers of its cells."""
        return max(cell.workers for cell in self.cases)

    def measurement(self, cell: Cell, comm: MPI.Intracomm) -> Measurement:
        """Return what was measured of a cell, and run the race if that was not done. Collective.

        After a rank was lost, cells with more workers than ranks are left take no part.

        Raises:
            Exception: what kept the cell from being measured.
        """
        if not comm.allreduce(cell in self.outcomes, MPI.LAND):
            self._run(comm)
        outcome = self.outcomes[cell]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def _run(self, comm: MPI.Intracomm) -> None:
        cases: dict[Cell, Case] = {}
        failed: dict[Cell, Outcome] = {}
        for cell, make in self.cases.items():
            if cell.workers > comm.size:
                failed[cell] = Refused(f"{cell.workers} workers, and {comm.size} ranks are left")
                continue
            try:
                cases[cell] = raise_together(comm, make)
            except MPI.Exception:  # a rank has died
                raise
            except Exception as error:  # the others are raced without it
                failed[cell] = error
        raced = race(list(cases.values()), comm)
        self.outcomes = failed | dict(zip(cases, raced, strict=True))


def plan(items: Sequence[pytest.Item], ranks: int) -> dict[str, PlannedRace]:
    """Find the races among the tests of a run with so many ranks.

    Tests that are skipped, for want of ranks too, take no part.

    Returns:
        For the node id of each test that measures a planned cell, its race.
    """
    races: dict[object, PlannedRace] = {}
    found = {}
    for item in items:
        make = getattr(getattr(item, "function", None), "cell", None)
        if make is None or item.get_closest_marker("skip"):
            continue
        arguments = _arguments(make, item)
        cell, how = make(**arguments), item.function.case  # type: ignore[attr-defined]
        if cell.workers > ranks:
            continue
        each = races.setdefault((raced_with(cell), how), PlannedRace())
        each.cases[cell] = partial(how, cell, **arguments) if how else partial(grid.case, cell)
        each.tests.setdefault(cell, item.nodeid)
        found[item.nodeid] = each
    return found


def _arguments(function: Callable, item: pytest.Item) -> dict[str, object]:
    """Return the parameters of a test that a function asks for.

    Raises:
        UsageError: it asks for something else.
    """
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    known = {**parameters, "pytestconfig": item.config}
    asked = inspect.signature(function).parameters
    if unknown := [name for name in asked if name not in known]:
        raise pytest.UsageError(
            f"{item.nodeid}: the function of its cell asks for {', '.join(unknown)}, expected "
            f"some of {', '.join(known)}"
        )
    return {name: known[name] for name in asked}
