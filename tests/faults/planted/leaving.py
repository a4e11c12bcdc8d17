"""A rank that leaves in the middle of the session. PLANTED_LEAVE says how."""

import os
import signal
import time

import pytest
from mpi4py import MPI

LEAVE = os.environ["PLANTED_LEAVE"]


def test_before(world: MPI.Comm) -> None:
    world.Barrier()


def test_leave(world: MPI.Comm, faulty: bool) -> None:
    if faulty and LEAVE == "keyboard":
        raise KeyboardInterrupt
    if faulty and LEAVE == "exit":
        pytest.exit("planted exit", returncode=7)
    if faulty and LEAVE == "sigint":
        os.kill(os.getppid(), signal.SIGINT)
        time.sleep(60)
    world.Barrier()


def test_later(world: MPI.Comm) -> None:
    world.Barrier()
