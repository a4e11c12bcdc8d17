"""Who else used the processor while a cell was measured.

A launch on a busy machine measures the neighbours. Two ranks on two cores lose to a third process
what one rank does not notice, so the speedup falls and no statistics over rounds can tell that from
a slower program. The operating system can: it knows how much processor time went to others.
"""

from __future__ import annotations

import contextlib
import time

import psutil

from bench.core.cores import allowed, available

LIMIT = 0.1
"""Cores' worth of time that neighbours may take beyond the cores that a cell leaves free."""


class Neighbours:
    """Processor time of this host that did not go to a process and its descendants.

    Args:
        process: by default this one.
    """

    def __init__(self, process: psutil.Process | None = None) -> None:
        self._cores = allowed()
        self._process = process or psutil.Process()
        self._last = self._now()

    def lap(self) -> float:
        """Cores' worth of foreign load since the last lap (or the start): 1.0 is one busy core.

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


def disturbed(foreign: float, workers: int) -> bool:
    """Whether `foreign` load left fewer than `workers` free cores (within LIMIT) to a cell."""
    return _taken(foreign, workers) > LIMIT


def slowdown(foreign: float, workers: int) -> float:
    """How many times as long a cell can take for that load; 1 if it disturbs nothing.

    All of it may have been on the core of one rank, for which the others wait. A rank that shares
    its core with one other program has half of it; where there are more, nothing is to be measured.
    """
    if not disturbed(foreign, workers):
        return 1.0
    return 1 / (1 - min(_taken(foreign, workers), 0.5))


def _taken(foreign: float, workers: int) -> float:
    """What is left of the load when it has filled the cores that a cell leaves free."""
    return foreign - max(0, available() - workers)
