"""A demo in a process of its own, as nox starts it, and ended as by Ctrl-C in a terminal."""

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import psutil

from bench.core.cores import unbound
from bench.core.fingerprint import LAUNCHER
from strategies.launchers import without_launcher
from strategies.records import Run, read

ROOT = Path(__file__).parents[3]
STARTS, WAITS, ENDS = 60.0, 60.0, 15.0
"""Seconds, far beyond what it takes on a quiet machine."""

YIELD = {"OMPI_MCA_mpi_yield_when_idle": "1"}
"""Ranks that wait leave the core to others: tests run beside other programs."""

SEQUENTIAL = {
    "net": "mlp",
    "strategy": "Sequential",
    "workers": 1,
    "batch_size": 100,
    "learning_rate": 0.05,
}
PARALLEL = SEQUENTIAL | {"strategy": "DataParallel", "workers": 2}
RACE: dict[str, Any] = {
    "data": "digits",
    "epochs": 3,
    "target": 0.6,
    "together": False,
    "dtype": "float64",
    "lanes": [SEQUENTIAL, PARALLEL],
}

T = TypeVar("T")


@dataclass
class Served:
    """A demo that runs.

    Attributes:
        address: that it has printed.
        process: its process, the leader of a group.
    """

    address: str
    folder: Path
    process: subprocess.Popen[str]

    def ask(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, Any]:
        """Return the status and the JSON of an answer; `headers` replace those of the page."""
        place = urlsplit(self.address)
        own = {"Host": place.netloc}
        if body is not None:
            own |= {"Origin": f"http://{place.netloc}", "Content-Type": "application/json"}
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        with contextlib.closing(
            http.client.HTTPConnection(place.hostname or "", place.port, timeout=WAITS)
        ) as connection:
            connection.request(method, place.path + path, body, own | given)
            answer = connection.getresponse()
            text = answer.read()
        with contextlib.suppress(ValueError):
            return answer.status, json.loads(text)
        return answer.status, text

    def post(self, path: str, keys: Any, **headers: str) -> tuple[int, Any]:
        """Post keys as the page does."""
        return self.ask("POST", path, json.dumps(keys).encode(), **headers)

    def race(self) -> Any:
        """Return all that a browser is told that comes now."""
        with contextlib.closing(self.watch()) as events:
            return next(events)[1]

    def watch(self) -> Generator[tuple[str, Any], None, None]:
        """Yield events as a browser gets them."""
        place = urlsplit(self.address)
        connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=WAITS)
        try:
            connection.request("GET", f"{place.path}events")
            kind = ""
            for line in connection.getresponse():
                name, _, text = line.decode().rstrip("\n").partition(": ")
                if name == "event":
                    kind = text
                elif name == "data":
                    yield kind, json.loads(text)
        finally:
            connection.close()

    def wait(self, holds: Callable[[Any], T]) -> T:
        """Wait until something holds of the race, and return what it is."""
        for kind, told in self.watch():
            if kind == "race" and told and (found := holds(told)):
                return found
        raise AssertionError("the demo has ended")

    def run_file(self) -> Run:
        return read(self.folder / "run.jsonl")

    def ranks(self, lane: int) -> list[psutil.Process]:
        """Return the processes that train a lane, counted from 1."""
        end = ["bench.demo.lane", str(lane - 1)]
        found = [(each, each.cmdline()) for each in self.family()]
        return [each for each, line in found if end == [*line[2:3], *line[-1:]] and len(line) == 5]

    def family(self) -> list[psutil.Process]:
        """Return its process and all that descend from it."""
        process = psutil.Process(self.process.pid)
        return [process, *process.children(recursive=True)]


@contextmanager
def serving(folder: Path, *options: str) -> Iterator[Served]:
    """A demo until the block ends, and then Ctrl-C: none of its processes may be left."""
    with starting(folder, *options) as served:
        yield served
        family = served.family()
        os.killpg(served.process.pid, signal.SIGINT)
        assert served.process.wait(ENDS) == 0
        _, left = psutil.wait_procs(family, 3)
        assert not left


@contextmanager
def starting(folder: Path, *options: str) -> Iterator[Served]:
    """A demo, which is killed with all of its processes if it is still there at the end."""
    mpiexec = Path(sys.executable).with_name("mpiexec")
    own = {LAUNCHER: f"{mpiexec} --with-ft ulfm"} if mpiexec.exists() else {}
    command = [sys.executable, "-m", "bench.demo", "--port", "0", "--no-open", "--rows", "2000"]
    with unbound():
        process = subprocess.Popen(
            [*command, "--folder", str(folder), *options],
            cwd=ROOT,
            env=own | YIELD | without_launcher(os.environ),
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
    assert process.stdout
    try:
        served = Served(process.stdout.readline().strip(), folder, process)
        assert served.address.startswith("http://"), process.wait(ENDS)
        yield served
    finally:
        if process.poll() is None:
            for each in [*psutil.Process(process.pid).children(recursive=True), process]:
                each.kill()
        process.wait()
        process.stdout.close()


def within(seconds: float, holds: Callable[[], object]) -> bool:
    """Whether something comes to hold in so many seconds."""
    end = time.monotonic() + seconds
    while not (found := holds()) and time.monotonic() < end:
        time.sleep(0.02)
    return bool(found)
