"""Who takes part in a test, and the private communicator for it."""

import contextlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pytest

from tests.ranks.control import Control
from tests.ranks.mpi import MPI


@dataclass
class Group:
    """The first ``size`` surviving ranks; ``comm`` is COMM_NULL on the ranks that stay idle."""

    size: int
    comm: MPI.Comm

    @property
    def active(self) -> bool:
        return self.comm != MPI.COMM_NULL

    @cached_property
    def verdicts(self) -> MPI.Comm:
        """A duplicate for messages about the test beside those of the test."""
        return self.comm.Dup()

    def free(self) -> None:
        """Collective over the group. Not to be called after a revocation: Free could hang."""
        if not self.active:
            return
        # A rank that dies at this moment shows in the next exchange.
        with contextlib.suppress(MPI.Exception):
            if "verdicts" in vars(self):
                self.verdicts.Free()
            self.comm.Free()


GROUP = pytest.StashKey[Group]()


def workers_of(item: pytest.Item, world: int) -> int:
    """How many ranks a test asks for: its ``workers`` parameter, its mark, or all of them."""
    params = item.callspec.params if hasattr(item, "callspec") else {}
    if "workers" in params:
        return int(params["workers"])
    mark = item.get_closest_marker("workers")
    return int(mark.args[0]) if mark else world


def parametrize(metafunc: pytest.Metafunc, world: int) -> None:
    """Run a test that uses ``workers`` or ``comm`` for each number of ranks: all, or its mark's."""
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


def form(control: Control, size: int) -> Group:
    """A fresh communicator of the first ``size`` survivors. Collective over all survivors."""
    taking_part = control.comm.rank < size
    comm = control.comm.Split(0 if taking_part else MPI.UNDEFINED)
    if taking_part:
        # mpi4py makes its hidden duplicate at the first of these, and holds the interpreter the
        # while. In a test, with a rank that does not come, that would stop the watchdog.
        comm.allreduce(None, op=_nothing)
    return Group(size, comm)


def alone() -> Group:
    """A fresh communicator of this rank alone."""
    return Group(1, MPI.COMM_SELF.Dup())


def _nothing(a: None, b: None) -> None:
    """An operation for its side effect."""


def uses_comm(fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest) -> bool:
    """Whether a fixture is built, directly or not, on ``comm``."""
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
