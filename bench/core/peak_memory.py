"""The memory that a call takes at its peak, whichever library asks for it.

Python's `tracemalloc` knows what Python and numpy ask for, but not torch. So the system is asked:
it notes the most memory that a process has had resident, and can be told to begin anew (Linux,
`man 5 proc_pid_clear_refs`).
"""

import ctypes
import gc
import re
from collections.abc import Callable
from pathlib import Path

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_BEGIN_ANEW = "5"


def peak_of(call: Callable[[], object]) -> int | None:
    """Return by how many bytes this process grows at the peak of a call; None if not known.

    Memory that was freed before, and that the process has kept, is given back first: a call that
    used it again would seem to need none. Call once before, so that what is kept for good is there.
    """
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError):  # another C library than glibc
        return None
    try:
        _CLEAR.write_text(_BEGIN_ANEW)
        before = _bytes("VmRSS")
        call()
        return max(0, _bytes("VmHWM") - before)
    except (OSError, LookupError):
        return None


def _bytes(name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB$", _STATUS.read_text(), re.MULTILINE)
    if found is None:
        raise LookupError(name)
    return 1024 * int(found[1])
