"""Choose the ranks that take part in a test, and make their private communicator."""

import contextlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pytest

from .control import Control
from .mpi import MPI
from .world import prepare


@dataclass
class Group:
    """The first ``size`` surviving ranks; ``comm`` is COMM_NULL on the ranks that stay idle."""

    size: int
    comm: MPI.Comm

    @property
    def active(self) -> bool:
        return self.comm != MPI.COMM_NULL

    @cached_property
    def outcomes(self) -> MPI.Comm:
        """A duplicate for messages about the test, apart from the test's own messages."""
        return self.comm.Dup()

    def free(self) -> None:
        """Free the communicators. Collective. Do not call after a revocation: Free could hang."""
        if not self.active:
            return
        # If a rank dies at this moment, the next exchange notices it.
        with contextlib.suppress(MPI.Exception):
            if "outcomes" in vars(self):
                self.outcomes.Free()
            self.comm.Free()


GROUP = pytest.StashKey[Group]()


def workers_of(item: pytest.Item, world: int) -> int:
    """Return how many ranks a test asks for: its ``workers`` parameter, its mark, or all.

    The mark ``ranks`` asks for more than that, as far as they are there.
    """
    params = item.callspec.params if hasattr(item, "callspec") else {}
    mark, more = item.get_closest_marker("workers"), item.get_closest_marker("ranks")
    need = int(params["workers"] if "workers" in params else mark.args[0] if mark else world)
    return max(need, min(int(more.args[0]), world)) if more else need


def parametrize(metafunc: pytest.Metafunc, world: int) -> None:
    """Repeat a test that uses ``workers`` or ``comm`` for each number of ranks.

    The numbers are the arguments of its mark ``workers``; without a mark 1 to ``world``.
    """
    mark = metafunc.definition.get_closest_marker("workers")
    counts = mark.args if mark else range(1, world + 1)
    if not all(isinstance(n, int) and n >= 1 for n in counts) or (mark and not counts):
        raise pytest.UsageError(
            f"{metafunc.definition.nodeid}: mark workers takes numbers of ranks, as in "
            f"@pytest.mark.workers(1, 2, 4), not {counts!r}"
        )
    if "workers" in metafunc.fixturenames:
        explicit = [m.args[0] for m in metafunc.definition.iter_markers("parametrize")]
        names = [n.strip() for a in explicit for n in (a.split(",") if isinstance(a, str) else a)]
        if "workers" not in names:
            metafunc.parametrize("workers", counts)
    elif mark and len(counts) > 1:
        raise pytest.UsageError(
            f"{metafunc.definition.nodeid}: mark workers with several numbers needs a test that "
            "uses the fixture comm or workers"
        )


def form_group(control: Control, size: int) -> Group:
    """Make a new communicator of the first ``size`` survivors. Collective over all survivors."""
    taking_part = control.comm.rank < size
    comm = control.comm.Split(0 if taking_part else MPI.UNDEFINED)
    if taking_part:
        prepare(comm)
    return Group(size, comm)


def solo_group() -> Group:
    """Make a new communicator that contains this rank only."""
    return Group(1, MPI.COMM_SELF.Dup())


def uses_comm(fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest) -> bool:
    """Return whether a fixture uses ``comm``, directly or through other fixtures."""
    seen, names = set[str](), list(fixturedef.argnames)
    while names:
        name = names.pop()
        if name == "comm":
            return True
        if name not in seen:
            seen.add(name)
            for definition in request._fixturemanager.getfixturedefs(name, request.node) or ():
                names.extend(definition.argnames)
    return False
