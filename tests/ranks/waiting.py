"""Wait without using the processor.

MPI's own waits spin. Where there are fewer cores than ranks, a spinning rank takes half the speed
of the rank that is being measured.
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
