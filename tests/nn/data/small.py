"""A small set for the cache, and a process that asks for it: `python -m tests.nn.data.small`.

The process takes two arguments: a file in which the maker of the set notes its process id, and
"sleep" or "die", which the maker does when half is written. It waits for a line of input first, so
that several processes can begin at once.
"""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nn.data import cache

ROWS = np.arange(12, dtype=np.float32).reshape(6, 2)


def fetch(halfway: Callable[[], object] = lambda: None) -> dict:
    """The set from the cache; while it is made, `halfway` is called when half of x is written."""
    return cache.fetch("small", {"a": 1}, lambda: ({"classes": 6}, arrays(halfway)))


def arrays(halfway: Callable[[], object] = lambda: None) -> cache.Arrays:
    def chunks() -> Iterator[NDArray]:
        yield ROWS[:4]
        halfway()
        yield ROWS[4:]

    yield "x", (6, 2), chunks()
    yield "y", (6,), iter([np.arange(6)])


if __name__ == "__main__":
    _, notes, mode = sys.argv

    def note() -> None:
        with Path(notes).open("a") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(0.5)
        if mode == "die":
            os.kill(os.getpid(), signal.SIGKILL)

    print("ready", flush=True)
    input()
    print(fetch(note)["x"].sum())
