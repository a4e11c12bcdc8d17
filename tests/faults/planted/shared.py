"""Tests that are shared out, one of which goes wrong. PLANTED_FAULT says how.

PLANTED_EARLY is a rank on which an earlier test fails too. PLANTED_SLOW is how many seconds each
test of TestClass takes; the other ranks are in one when the fault happens.
"""

import ctypes
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mpi4py import MPI

from tests.ranks.waiting import wait

RANK, ALL = MPI.COMM_WORLD.rank, MPI.COMM_WORLD.size
FAULT = os.environ["PLANTED_FAULT"]
EARLY = int(os.environ.get("PLANTED_EARLY", "-1"))
SLOW = float(os.environ.get("PLANTED_SLOW", "0"))
FOLDER = Path(os.environ["PLANTED_LOG"]).parent


def raise_an_error() -> None:
    raise RuntimeError("planted")


def leave() -> None:
    raise KeyboardInterrupt


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


FAULTS = {
    "raise": raise_an_error,
    "skip": lambda: pytest.skip("planted skip"),
    "sleep": lambda: time.sleep(1e6),
    "receive": lambda: MPI.COMM_WORLD.Recv(bytearray(1), source=RANK),
    "kill": kill,
    "kill, without a note": kill,
    "sleep, then kill": lambda: time.sleep(1e6),
    "os_exit": lambda: os._exit(3),
    "exit_c": lambda: ctypes.CDLL(None)._exit(3),
    "segv": lambda: ctypes.string_at(0),
    "gil": lambda: ctypes.PyDLL(None).sleep(1000),
    "leave": leave,
    "kill in the meeting": lambda: threading.Timer(SLOW, kill).start(),
    "interrupt in the meeting": lambda: threading.Timer(SLOW, interrupt).start(),
    "none": lambda: None,
    "kill together": lambda: None,
}


@pytest.fixture(scope="class")
def of_class(write_log: Callable[..., None]) -> Iterator[list[int]]:
    write_log(setup=True)
    yield []
    write_log(teardown=True)


@pytest.mark.workers(1)
@pytest.mark.parametrize("k", range(ALL))
def test_side_by_side(k: int) -> None:
    """Pass if all ranks are in this test at the same time."""
    (FOLDER / f"here{k}").touch()
    wait(lambda: len(list(FOLDER.glob("here*"))) == ALL)
    if RANK == EARLY:
        raise RuntimeError("planted early")


@pytest.mark.workers(1, ALL)
def test_both(comm: MPI.Comm, workers: int) -> None:
    assert comm.allreduce(1) == workers


@pytest.mark.workers(1)
@pytest.mark.xfail(raises=RuntimeError, strict=True)
def test_xfails() -> None:
    raise RuntimeError("planted")


@pytest.mark.workers(1)
@pytest.mark.filterwarnings("error:planted")
def test_marks_for_warnings_count() -> None:
    with pytest.raises(UserWarning):
        warnings.warn("planted", stacklevel=1)


@pytest.fixture
def late_death(victim: int) -> Iterator[None]:
    yield
    if victim == RANK and FAULT == "sleep, then kill":
        kill()


@pytest.mark.workers(1)
@pytest.mark.parametrize("k", range(ALL))
def test_fault(
    comm: MPI.Comm, late_death: None, faulty: bool, request: pytest.FixtureRequest, k: int
) -> None:
    print("planted output")
    if faulty:
        time.sleep(SLOW / 2)
        if FAULT == "kill, without a note":
            plugin: Any = request.config.pluginmanager.get_plugin("ranks")
            plugin.watchdog.reset_notes("")
        FAULTS[FAULT]()


@pytest.mark.workers(1)
@pytest.mark.parametrize("k", range(ALL))
def test_after(comm: MPI.Comm, k: int) -> None:
    assert comm.allreduce(1) == 1


@pytest.mark.workers(1)
@pytest.mark.parametrize("k", range(3 * ALL))
class TestClass:
    """A class fixture is made once on each rank, whichever tests it runs."""

    def test_once(
        self, of_class: list[int], write_log: Callable[..., None], victim: int, k: int
    ) -> None:
        write_log(ran=k)
        time.sleep(0.0 if victim == RANK else SLOW)


@pytest.mark.alone
@pytest.mark.workers(1)
def test_alone(comm: MPI.Comm) -> None:
    assert RANK == 0


@pytest.mark.workers(ALL)
@pytest.mark.parametrize("k", range(2))
class TestAll:
    def test_once_for_all(self, of_class: list[int], comm: MPI.Comm, k: int) -> None:
        of_class.append(k)
        assert len(of_class) == k + 1


def test_together(world: MPI.Comm, victim: int) -> None:
    if victim == RANK and FAULT == "kill together":
        kill()
    assert world.allreduce(1) == world.size
