"""Which processes use how many cores, over time: what they compute, apart from what they wait."""

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import psutil

NAP = 0.25
"""Seconds between two looks."""


@dataclass
class CoreUse:
    """What processes have used while they were watched.

    Attributes:
        nap: seconds between two looks.
        cores: process -> cores in use, one value per nap. A process that waits by spinning uses
            one; the workers of tasks sleep.
        computing: process -> seconds of processor time, user and system.
        seconds: for how long they were watched.
    """

    nap: float
    cores: dict[str, list[float]] = field(default_factory=dict)
    computing: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def waiting(self) -> dict[str, float]:
        """Process -> seconds in which it did not compute: for work, a disk, or a core to run on.

        It is the time that has passed minus processor time, so a lack of cores counts as waiting.
        """
        return {name: max(0.0, self.seconds - used) for name, used in self.computing.items()}


@contextmanager
def watched(pids: Mapping[str, int], nap: float = NAP) -> Iterator[CoreUse]:
    """Watch processes of this machine from a thread, until the block ends.

    Args:
        pids: name -> number of a process. One that ends has used what was seen last.
        nap: seconds between two looks.

    Yields:
        What they have used; complete when the block has ended.
    """
    processes = {name: psutil.Process(pid) for name, pid in pids.items()}
    use = CoreUse(nap, {name: [] for name in processes})
    over = threading.Event()
    begin = {name: _used(process) for name, process in processes.items()}
    last = dict(begin)

    def watch() -> None:
        then = time.perf_counter()
        while not over.wait(nap):
            now = time.perf_counter()
            for name, process in processes.items():
                used = max(last[name], _used(process))
                use.cores[name].append((used - last[name]) / (now - then))
                last[name] = used
            then = now

    watcher = threading.Thread(target=watch)
    start = time.perf_counter()
    watcher.start()
    try:
        yield use
    finally:
        use.seconds = time.perf_counter() - start
        over.set()
        watcher.join()
        use.computing = {
            name: max(last[name], _used(process)) - begin[name]
            for name, process in processes.items()
        }


def _used(process: psutil.Process) -> float:
    """Seconds of processor time of a process; 0 if it has ended."""
    with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        times = process.cpu_times()
        return times.user + times.system
    return 0.0
