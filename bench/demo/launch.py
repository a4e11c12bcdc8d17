"""A lane as the server sees it: the processes that train, what they tell, and their end.

Each rank has a connection to the server. It ends when the rank does, whatever ended it, so a death
is noticed at once and without asking.
"""

import asyncio
import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from bench.core.cores import available
from bench.core.fingerprint import LAUNCHER
from bench.demo import wire
from bench.demo.settings import LaneSettings
from strategies.launchers import without_launcher
from strategies.tasks.threads import environment

STARTS = 60.0
"""Seconds that the ranks of a lane have to be ready."""

_ENDS = 5.0  # seconds that a launcher has to end its ranks and clean up, until it is killed
_LEAVES = 2.0  # seconds that the ranks of a lane that has finished have to leave MPI
_LAST_LINES = 3  # of what a lane's processes said, shown with the reason of its end


class LaneFailed(Exception):
    """A lane is over, and the text says why."""


class Launch:
    """The processes of one lane.

    Args:
        number: of the lane, from 0.
        settings: what it trains.
        folder: of the run, for what its processes say.
        patience: seconds without an answer after which the lane is given up.
    """

    def __init__(self, number: int, settings: LaneSettings, folder: Path, patience: float):
        self.number, self.settings = number, settings
        self._log, self._patience = folder / f"lane-{number + 1}.log", patience
        self._process: subprocess.Popen[bytes] | None = None
        self._writers: dict[int, asyncio.StreamWriter] = {}
        self._pids: dict[int, int] = {}
        self._heard: asyncio.Queue[tuple[dict[str, Any], bytes]] = asyncio.Queue()
        self._complete = asyncio.Event()
        self._failure: str | None = None
        self._over = False

    @property
    def pids(self) -> dict[int, int]:
        """Rank -> number of its process, of the ranks that have come."""
        return dict(self._pids)

    async def start(self, path: Path, order: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
        """Start the ranks, and return what rank 0 says when it is ready, with the weights.

        Raises:
            LaneFailed: they are not ready in time, or one has ended.
        """
        workers = self.settings.workers
        command = [sys.executable, "-m", "bench.demo.lane", str(path), str(self.number)]
        try:
            launcher = [*_launcher(), "-n", str(workers)] if workers > 1 else []
        except ValueError as error:
            raise LaneFailed(str(error)) from None
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*launcher, *command],
                cwd=Path(__file__).parents[2],
                env=_environment(workers),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C in the terminal is the server's
            )
        try:
            async with asyncio.timeout(STARTS):
                while not self._complete.is_set():
                    if self._process.poll() is not None:
                        raise self._failed("its processes ended before they began")
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._complete.wait(), 0.1)
                for rank in self._writers:
                    self._send(rank, **order)
                return await self._answer(STARTS)
        except TimeoutError:
            raise self._failed(f"it was not ready after {STARTS:.0f} s") from None

    async def train(
        self, until: float, settled: Callable[[int], dict[str, Any]], grant: dict[str, Any]
    ) -> tuple[dict[str, Any], bytes]:
        """Let it train until its clock says `until`, and return what it then tells, with weights.

        Args:
            settled: called with an epoch that begins meanwhile; returns the answer.
            grant: what it is told with its turn.

        Raises:
            LaneFailed: a rank has ended, hangs, or raised an error.
        """
        self._send(0, until=until, **grant)
        while True:
            message, data = await self._answer(self._patience)
            if message["event"] != "epoch":
                return message, data
            self._send(0, **settled(message["epoch"]))

    async def finish(self) -> tuple[dict[str, Any], bytes]:
        """Return what it tells when its training has ended, with its weights.

        Raises:
            LaneFailed: as `train`.
        """
        answer = await self._answer(self._patience)
        self._over = True
        return answer

    async def serve(self, hello: dict[str, Any], reader: Any, writer: Any) -> None:
        """Listen to one rank until its connection ends."""
        rank = int(hello["rank"])
        self._writers[rank], self._pids[rank] = writer, int(hello["pid"])
        if hello["size"] != self.settings.workers:
            self._fail(
                f"its launcher made worlds of {hello['size']} in place of "
                f"{self.settings.workers}: expected the mpiexec of the MPI library in use"
            )
        if len(self._writers) == self.settings.workers:
            self._complete.set()
        try:
            while True:
                message, data = await wire.received(reader)
                if message["event"] == "failed":
                    self._fail(f"worker {rank + 1} failed: {message['reason']}")
                elif message["event"] != "bye":
                    self._heard.put_nowait((message, data))
        except (EOFError, OSError, ValueError):
            if not self._over:
                self._fail(f"worker {rank + 1} (process {self._pids[rank]}) has died")

    async def end(self) -> None:
        """End all of its processes; returns when none is left."""
        is_whole, self._over = self._over, True
        process = self._process
        if process is None:
            return
        if is_whole:  # ranks leave MPI in order
            for rank in self._writers:
                self._send(rank, end=True)
            await self._ended(_LEAVES)
        ranks = [pid for pid in self._pids.values() if _descends(pid, process.pid)]
        if process.poll() is None:
            process.terminate()  # a launcher passes it on, and cleans up
        for writer in self._writers.values():
            writer.close()  # ranks end with their connections
        for pid in ranks:  # one that is stopped, or hangs, hears of nothing
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await self._ended(_ENDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    async def _ended(self, seconds: float) -> None:
        """Wait for the end of what was started, no longer than so many seconds."""
        assert self._process
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._process.poll() is None:
                    await asyncio.sleep(0.02)

    def _send(self, rank: int, **message: Any) -> None:
        with contextlib.suppress(OSError, RuntimeError):  # its end is heard of where it is read
            self._writers[rank].write(wire.encoded(message))

    async def _answer(self, patience: float) -> tuple[dict[str, Any], bytes]:
        try:
            message, data = await asyncio.wait_for(self._heard.get(), patience)
        except TimeoutError:
            raise self._failed(self._why_no_answer(patience)) from None
        if message["event"] == "over":
            raise self._failed(message["reason"])
        return message, data

    def _fail(self, reason: str) -> None:
        """Tell whoever waits for an answer that there will be none; the first reason counts."""
        if self._failure is None:
            self._failure = reason
            self._heard.put_nowait(({"event": "over", "reason": reason}, b""))
            self._complete.set()

    def _why_no_answer(self, patience: float) -> str:
        stopped = [
            f"worker {rank + 1} (process {pid}) is stopped"
            for rank, pid in self._pids.items()
            if _status(pid) == psutil.STATUS_STOPPED
        ]
        why = "; ".join(stopped) or "a worker hangs, or the machine is too busy"
        return f"no answer for {patience:g} s: {why}"

    def _failed(self, reason: str) -> LaneFailed:
        said = ""
        with contextlib.suppress(OSError):
            said = self._log.read_text(errors="replace").strip()
        last = " | ".join(said.splitlines()[-_LAST_LINES:])
        return LaneFailed(f"{reason}. Its last words: {last:.400}" if last else reason)


def _launcher() -> list[str]:
    given = shlex.split(os.environ.get(LAUNCHER) or "mpiexec")
    if not given or shutil.which(given[0]) is None:
        raise ValueError(f"no {' '.join(given)}: install an MPI, or name its mpiexec in {LAUNCHER}")
    return given


def _environment(workers: int) -> dict[str, str]:
    """Variables of the ranks: a thread each, and cores that the system chooses.

    Bound ranks of all lanes would share the first cores and leave the others idle whenever lanes
    train at the same time.
    """
    own = {"LOCKSTEP_RANKS": str(workers), "PRTE_MCA_hwloc_default_binding_policy": "none"}
    if workers > available():
        own["OMPI_MCA_mpi_yield_when_idle"] = "1"
    alone = {"OMPI_MCA_btl": "self,sm"} if workers == 1 else {}
    chosen = {name: value for name, value in os.environ.items() if name.startswith("PMIX_MCA_")}
    return without_launcher(os.environ) | chosen | environment(1) | own | alone


def _status(pid: int) -> str | None:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status()
    return None


def _descends(pid: int, ancestor: int) -> bool:
    """Whether a process is this one, or descends from it: numbers of the dead are given anew."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        return ancestor in (pid, *(parent.pid for parent in process.parents()))
    return False
