"""A test fails, and then the run breaks off. PLANTED_END says how, and on which ranks."""

import ctypes
import os
import signal
import time

import pytest
from mpi4py import MPI

END = os.environ["PLANTED_END"]


def hold_the_interpreter() -> None:
    ctypes.PyDLL(None).sleep(1000)


def ctrl_c() -> None:
    os.kill(os.getppid(), signal.SIGINT)
    time.sleep(60)


def leave() -> None:
    pytest.exit("planted exit", returncode=7)


ENDS = {
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "os_exit_0": lambda: os._exit(0),
    "exit_c_0": lambda: ctypes.CDLL(None)._exit(0),
    "exit_c": lambda: ctypes.CDLL(None)._exit(3),
    "abort": lambda: MPI.COMM_WORLD.Abort(5),
    "gil": hold_the_interpreter,
    "ctrl_c": ctrl_c,
    "leave": leave,
}


@pytest.mark.parametrize("k", range(2))
def test_early(world: MPI.Comm, k: int) -> None:
    assert world.rank < 0, "planted early"


def test_end(world: MPI.Comm, faulty: bool) -> None:
    name, _, everywhere = END.partition(" ")
    if faulty or everywhere:
        ENDS[name]()
    world.Barrier()


def test_later(world: MPI.Comm) -> None:
    world.Barrier()
