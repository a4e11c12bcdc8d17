"""Waiting without using the processor.

MPI's own waits spin, and a rank that spins takes half the speed of the one that is being measured
when there are fewer cores than ranks.
"""

import time
from collections.abc import Callable

# Naps grow with the time already waited: short waits end quickly, long ones cost nothing.
_SHARE, _SHORTEST, _LONGEST = 0.1, 5e-5, 5e-3


def wait(done: Callable[[], bool], meanwhile: Callable[[float], object] | None = None) -> float:
    """Sleep until ``done()``, calling ``meanwhile(seconds waited)`` after each nap.

    Returns the seconds waited. An exception from ``meanwhile`` ends the wait.
    """
    start = time.monotonic()
    while not done():
        waited = time.monotonic() - start
        time.sleep(min(max(_SHARE * waited, _SHORTEST), _LONGEST))
        if meanwhile is not None:
            meanwhile(waited)
    return time.monotonic() - start
