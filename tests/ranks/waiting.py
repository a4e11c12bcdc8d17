"""Waiting without using the processor.

MPI's own waits spin, and a rank that spins takes half the speed of the one that is being measured
when there are fewer cores than ranks.
"""

import time
from collections.abc import Callable

# Naps grow with the time already waited: short waits end quickly, long ones cost nothing.
_SHARE, _SHORTEST, _LONGEST = 0.1, 5e-5, 5e-3


def nap(waited: float) -> None:
    """Sleep a little, in proportion to the seconds already ``waited``."""
    time.sleep(min(max(_SHARE * waited, _SHORTEST), _LONGEST))


def wait(done: Callable[[], bool], limit: float | None = None) -> bool:
    """Sleep until ``done()`` is true; return False if that takes longer than ``limit`` seconds."""
    start = time.monotonic()
    while not done():
        waited = time.monotonic() - start
        if limit is not None and waited > limit:
            return False
        nap(waited)
    return True
