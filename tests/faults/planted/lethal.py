"""Faults that kill a rank, and tests for the survivors. PLANTED_DEATH names the fault.

PLANTED_COMM says by which communicator the ranks talk to each other: the fixture `world`, unless it
is "COMM_WORLD".
"""

import contextlib
import ctypes
import os
import signal
import time

import pytest
from mpi4py import MPI

ALL = MPI.COMM_WORLD.size
DEATH = os.environ["PLANTED_DEATH"]


def swallow_everything() -> None:
    while True:
        with contextlib.suppress(BaseException):
            time.sleep(1e6)


def hold_the_interpreter() -> None:
    ctypes.PyDLL(None).sleep(1000)


def raise_an_error() -> None:
    raise RuntimeError("planted")


DEATHS = {
    "raise": raise_an_error,  # kills the launch without fault tolerance
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "segv": lambda: ctypes.string_at(0),
    "os_exit": lambda: os._exit(3),
    "exit_0": lambda: ctypes.CDLL(None)._exit(0),
    "stop": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "swallow": swallow_everything,
    "gil": hold_the_interpreter,
    "exit_c": lambda: ctypes.CDLL(None)._exit(3),
    "abort": lambda: MPI.COMM_WORLD.Abort(5),
}


if os.environ.get("PLANTED_COMM") == "COMM_WORLD":

    @pytest.fixture
    def everyone() -> MPI.Comm:
        return MPI.COMM_WORLD

else:

    @pytest.fixture
    def everyone(world: MPI.Comm) -> MPI.Comm:
        return world


@pytest.mark.workers(1)
def test_before(comm: MPI.Comm) -> None:
    """A test whose report must survive the death."""


def test_death(everyone: MPI.Comm, faulty: bool) -> None:
    if DEATH == "gil_everywhere":
        hold_the_interpreter()
    if faulty and DEATH in DEATHS:
        DEATHS[DEATH]()
    everyone.allreduce(1)


def test_next_death(everyone: MPI.Comm, next_death: str) -> None:
    """The survivors of the first death are fewer, and are numbered anew."""
    if next_death:
        DEATHS[next_death]()
    everyone.allreduce(1)


@pytest.mark.workers(*range(1, ALL + 1))
def test_survivors(comm: MPI.Comm, workers: int) -> None:
    assert comm.allreduce(1) == workers


def test_everyone_left(everyone: MPI.Comm) -> None:
    assert everyone.allreduce(1) == everyone.size
