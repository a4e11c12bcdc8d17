"""What the machine was like while it was measured, round by round.

A virtual machine has two states. While two of its cores share a cache, a gradient passes from one
to the other about as fast as it is copied. While they share none, that takes many times as long,
and strategies that share memory fall behind. A hypervisor changes the state every few seconds or
minutes, and says nothing.
"""

from __future__ import annotations

import time
from typing import cast

import numpy as np
import psutil
from mpi4py import MPI

from bench.core.background_load import LIMIT, laps
from bench.core.cores import available, on_core
from strategies.comm.handing_over import FAR
from strategies.comm.node import on_one_node
from strategies.comm.on_rank_0 import sleeping_barrier
from strategies.comm.shared_window import LINE, SharedWindow

HANDED_OVER = 2**18
"""Bytes that one core hands over to another in a look: less than a core's own cache holds."""

COPIED = 2**25
"""Bytes that are copied in a look: more than most caches hold."""

TRIES = 5

State = dict[str, list[float]]
"""A number for each round, by name; what this machine does not tell is left out:

=============== ===================================================================================
handover_ns     nanoseconds in which a core copies a line of 64 bytes that another has just written
own_line_ns     the same, if it has written the line itself
copy_gb_s       10^9 bytes a second that one core copies in memory
clock_mhz       frequency of the cores
background_load cores that other programs used during the round
steal           cores that the hypervisor gave to its other guests during the round
=============== ===================================================================================
"""


class MachineState:
    """Looks at the machine before every round. Collective over `comm`, as are its methods.

    A look takes some milliseconds, and what it copies pushes everything else out of the caches:
    turns bring their data back before they are timed.

    Args:
        comm: its rank 1 hands lines over to rank 0, from the second core of the launch to the
            first, if the ranks are on one node that has two.
    """

    def __init__(self, comm: MPI.Intracomm) -> None:
        self._comm, self._lap, self._state = comm, laps(comm), State()
        pair = cast(MPI.Intracomm, comm.Split(0 if comm.rank < 2 else MPI.UNDEFINED))
        self._pair, self._window = pair, None
        pairs_up = pair != MPI.COMM_NULL and pair.size == 2 and on_one_node(pair)
        if pairs_up and pair.allreduce(available() > 1, MPI.LAND):
            self._window = SharedWindow(pair, np.uint8, 1, HANDED_OVER)
        self._copied = [np.ones(COPIED, np.uint8) for _ in range(2)] if comm.rank == 0 else []
        self._begin = time.monotonic(), _stolen()

    def look(self) -> None:
        """Look at the machine; call it before every round."""
        if self._state:
            self._end_round()
        seen = self._handing_over()
        if self._copied:
            speed = 1e-9 * COPIED / _seconds(*self._copied)
            seen |= {"copy_gb_s": speed, "clock_mhz": _clock()}
        sleeping_barrier(self._comm)
        for name, value in self._comm.bcast(seen).items():
            if value is not None:
                self._state.setdefault(name, []).append(value)
        self._lap()  # what the look itself cost is nobody's load
        self._begin = time.monotonic(), _stolen()

    def close(self) -> State:
        """End the last round, and return what was seen, the same on every rank."""
        if self._state:
            self._end_round()
        if self._window:
            self._window.close()
        if self._pair != MPI.COMM_NULL:
            self._pair.Free()
        return self._state

    def _end_round(self) -> None:
        (then, before), (now, after) = self._begin, (time.monotonic(), _stolen())
        load, stolen = self._lap(), self._comm.bcast(after - before)
        self._state.setdefault("background_load", []).append(load)
        self._state.setdefault("steal", []).append(stolen / (now - then))

    def _handing_over(self) -> dict[str, float | None]:
        """Time how rank 0 copies what rank 1 has written, and what it has written itself."""
        if self._window is None:
            return {}
        lines = HANDED_OVER // LINE
        shared, target = self._window.rows[0], np.empty(HANDED_OVER, np.uint8)
        mine, others, own = self._comm.rank, [], []
        with on_core(mine):
            for i in range(TRIES):
                if mine == 1:
                    shared.fill(i)
                self._window.fence()
                if mine == 0:
                    others.append(_seconds(shared, target))
                    shared.fill(255 - i)
                    own.append(_seconds(shared, target))
                self._window.fence()
        if mine == 1:
            return {}
        # The fastest try: what disturbs one makes it slower.
        return {"handover_ns": 1e9 * min(others) / lines, "own_line_ns": 1e9 * min(own) / lines}


def share_no_cache(state: State) -> list[bool]:
    """Tell for each round whether the first two cores shared no cache; empty if nobody looked."""
    own = min(state.get("own_line_ns", ()), default=0.0)  # what disturbs it makes it longer
    return [other > FAR * own for other in state.get("handover_ns", ())]


def background_load(state: State) -> float:
    """Return how many cores other programs used, over all rounds; 0 if nobody looked."""
    return float(np.mean(state.get("background_load", 0.0)))


def remark(state: State) -> str:
    """Say what a reader of figures has to know of the machine; empty if there is nothing."""
    said, far = [], share_no_cache(state)
    if any(far):
        said.append(f"the first two cores shared no cache in {sum(far)} of {len(far)} rounds")
    if (load := background_load(state)) > LIMIT:
        said.append(f"other programs kept {load:.1f} cores busy")
    return " and ".join(said)


def _seconds(source: np.ndarray, target: np.ndarray) -> float:
    start = time.perf_counter()
    np.copyto(target, source)
    return time.perf_counter() - start


def _clock() -> float | None:
    """The frequency of the cores in MHz, where the system says it."""
    try:
        frequency = psutil.cpu_freq()
    except (OSError, NotImplementedError, RuntimeError):
        return None
    return frequency.current if frequency and frequency.current else None


def _stolen() -> float:
    """Seconds that the hypervisor has given to other guests, over all cores of this host."""
    return getattr(psutil.cpu_times(), "steal", 0.0)
