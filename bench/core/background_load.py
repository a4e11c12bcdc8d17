"""Background load: processor time that other programs used while a cell was measured.

Two ranks on two cores lose time to a third process where a single rank would find a free core. The
speedup falls, and no statistics over rounds can tell that from a slower program. The operating
system can: it knows how much processor time went to whom.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import psutil

from bench.core.cores import allowed, available

if TYPE_CHECKING:
    from mpi4py import MPI

LIMIT = 0.1
"""Cores' worth of background load that a cell bears beyond the cores it leaves free."""


class BackgroundLoad:
    """A meter of the processor time of this host that a process and its descendants did not use.

    Args:
        process: whose time is not background load; by default this process.
    """

    def __init__(self, process: psutil.Process | None = None) -> None:
        self._cores = allowed()
        self._process = process or psutil.Process()
        self._last = self._now()

    def lap(self) -> float:
        """Background load since the last lap (or the start) in cores: 1.0 is one busy core.

        Includes the time that a hypervisor gave to other guests (steal). Never negative: the two
        clocks behind it tick at 100 Hz. Sees this host only, not the others of a multi-host run.
        """
        last, self._last = self._last, self._now()
        wall, busy, own = (now - then for now, then in zip(self._last, last, strict=True))
        return max(0.0, (busy - own) / wall) if wall > 0 else 0.0

    def _now(self) -> tuple[float, float, float]:
        per_core = psutil.cpu_times(percpu=True)
        busy = 0.0
        for core in self._cores:
            times = per_core[core]
            # guest time is part of user time
            idle = times.idle + getattr(times, "iowait", 0.0)
            guest = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)
            busy += sum(times) - idle - guest
        own = 0.0
        for process in (self._process, *self._process.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                # the children_* fields hold what reaped descendants used
                own += sum(process.cpu_times()[:4])
        return time.monotonic(), busy, own


def laps(comm: MPI.Intracomm) -> Callable[[], float]:
    """Make a function that ends a lap and returns its background load, the same on every rank.

    The first lap begins now. All ranks of this host count as one program, also those that are not
    in `comm`. Collective, as is every call; do not call while timing, for it looks at every
    process.
    """
    if comm.rank > 0:
        return lambda: comm.bcast(None)
    from mpi4py import MPI  # imported here, since programs that start ranks must not import it

    launched = MPI.COMM_WORLD.size > 1
    load = BackgroundLoad(psutil.Process(os.getppid() if launched else None))
    return lambda: comm.bcast(load.lap())


def disturbed(load: float, workers: int) -> bool:
    """Whether a background load left a cell fewer free cores than workers (within LIMIT)."""
    return _beyond_idle(load, workers) > LIMIT


def slowdown(load: float, workers: int) -> float:
    """The most times as long that a cell can take because of a background load; 1 if undisturbed.

    The whole load may have run on the core of one rank while the others waited for it. A rank that
    shares its core with one other program gets half of the core, so the answer is at most 2.
    """
    if not disturbed(load, workers):
        return 1.0
    return 1 / (1 - min(_beyond_idle(load, workers), 0.5))


def _beyond_idle(load: float, workers: int) -> float:
    """Load beyond the cores that a cell leaves idle."""
    return load - max(0, available() - workers)
