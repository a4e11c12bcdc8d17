"""Faults that all ranks survive, each followed by a test that must pass.

PLANTED_COMM says by which communicator the ranks talk to each other: the fixture `comm`,
`MPI.COMM_WORLD` ("world"), or a duplicate of it that a fixture of the module holds ("module").
"""

import ctypes
import os
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from mpi4py import MPI

ALL = MPI.COMM_WORLD.size
pytestmark = pytest.mark.workers(ALL)
# For faults that must be reported long before any deadline.
at_once = pytest.mark.deadline(30.0)
COMM = os.environ.get("PLANTED_COMM", "comm")


@pytest.fixture(scope="module")
def of_module() -> MPI.Intracomm:
    return MPI.COMM_WORLD.Dup()


if COMM != "comm":

    @pytest.fixture
    def comm(request: pytest.FixtureRequest) -> MPI.Intracomm:
        return MPI.COMM_WORLD if COMM == "world" else request.getfixturevalue("of_module")


def healthy(comm: MPI.Comm) -> None:
    """Do what a healthy test does."""
    assert comm.size == ALL
    assert comm.allreduce(1) == ALL
    comm.Barrier()


def others_wait(comm: MPI.Comm, faulty: bool) -> None:
    if not faulty:
        comm.Barrier()


@pytest.fixture
def raises_in_setup(comm: MPI.Comm, faulty: bool) -> None:
    if faulty:
        raise RuntimeError("planted in setup")
    comm.Barrier()


@at_once
def test_setup(raises_in_setup: None) -> None:
    pass


def test_after_setup(comm: MPI.Comm) -> None:
    healthy(comm)


@at_once
def test_call(comm: MPI.Comm, faulty: bool) -> None:
    if faulty:
        raise RuntimeError("planted in call")
    comm.Barrier()


def test_after_call(comm: MPI.Comm) -> None:
    healthy(comm)


@pytest.fixture
def raises_in_teardown(comm: MPI.Comm, faulty: bool) -> Iterator[None]:
    yield
    if faulty:
        raise RuntimeError("planted in teardown")
    comm.Barrier()


@at_once
def test_teardown(raises_in_teardown: None) -> None:
    pass


def test_after_teardown(comm: MPI.Comm) -> None:
    healthy(comm)


@at_once
def test_sys_exit(comm: MPI.Comm, faulty: bool) -> None:
    if faulty:
        sys.exit(3)
    comm.allreduce(1)


def test_after_sys_exit(comm: MPI.Comm) -> None:
    healthy(comm)


@at_once
def test_mixed_skip(comm: MPI.Comm, faulty: bool) -> None:
    if faulty:
        pytest.skip("planted skip")


@at_once
def test_mixed_skip_in_collective(comm: MPI.Comm, faulty: bool) -> None:
    if faulty:
        pytest.skip("planted skip")
    comm.Barrier()


@at_once
def test_mixed_xfail(comm: MPI.Comm, faulty: bool) -> None:
    if faulty:
        pytest.xfail("planted xfail")


@at_once
def test_all_skip(comm: MPI.Comm, victim: int) -> None:
    """All ranks skip, though one comes late and needs a message from another before it can."""
    if MPI.COMM_WORLD.rank == victim:
        time.sleep(0.5)
        comm.recv(source=(victim + 1) % ALL)
    elif MPI.COMM_WORLD.rank == (victim + 1) % ALL:
        comm.send(None, victim)
    pytest.skip("planted skip")


def test_after_mixed(comm: MPI.Comm) -> None:
    healthy(comm)


@at_once
def test_memory(comm: MPI.Comm, faulty: bool) -> None:
    """An allocation that a memory limit refuses."""
    if faulty:
        limits = resource.getrlimit(resource.RLIMIT_AS)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, limits[1]))
        try:
            np.ones(2**27)
        finally:
            resource.setrlimit(resource.RLIMIT_AS, limits)
    comm.Barrier()


def test_after_memory(comm: MPI.Comm) -> None:
    healthy(comm)


def test_deadlock_mismatched(comm: MPI.Comm, faulty: bool) -> None:
    others_wait(comm, faulty)


def test_after_mismatched(comm: MPI.Comm) -> None:
    healthy(comm)


def test_deadlock_receive(comm: MPI.Comm, faulty: bool) -> None:
    if faulty:
        comm.Recv(np.zeros(1), source=comm.rank)
    comm.Barrier()


def test_after_receive(comm: MPI.Comm) -> None:
    healthy(comm)


def test_deadlock_pickled(comm: MPI.Comm, faulty: bool) -> None:
    if faulty:
        comm.recv(source=comm.rank)
    comm.allreduce(1)


def test_after_pickled(comm: MPI.Comm) -> None:
    healthy(comm)


def test_deadlock_split(comm: MPI.Comm, faulty: bool) -> None:
    part = comm.Split(0)
    if faulty:
        part.Recv(np.zeros(1), source=MPI.ANY_SOURCE)
    part.Split(0).Barrier()


def test_after_split(comm: MPI.Comm) -> None:
    healthy(comm)


def test_python_loop(comm: MPI.Comm, faulty: bool) -> None:
    while faulty:
        pass
    comm.Barrier()


def test_after_python_loop(comm: MPI.Comm) -> None:
    healthy(comm)


def test_sleep(comm: MPI.Comm, faulty: bool) -> None:
    if faulty:
        time.sleep(1e6)
    comm.Barrier()


def test_after_sleep(comm: MPI.Comm) -> None:
    healthy(comm)


def test_blocking_call(comm: MPI.Comm, faulty: bool) -> None:
    if faulty:
        ctypes.CDLL(None).pause()
    comm.Barrier()


def test_after_blocking_call(comm: MPI.Comm) -> None:
    healthy(comm)


def test_alone(comm: MPI.Comm, faulty: bool) -> None:
    """One rank loops for ever. No rank waits for it: the others have passed."""
    while faulty:
        time.sleep(0.1)


def test_after_alone(comm: MPI.Comm) -> None:
    healthy(comm)


def test_deadlock_world(comm: MPI.Comm, faulty: bool) -> None:
    if faulty:
        MPI.COMM_WORLD.Recv(np.zeros(1), source=MPI.ANY_SOURCE)
    MPI.COMM_WORLD.Barrier()


def test_after_world(comm: MPI.Comm) -> None:
    healthy(comm)
    healthy(MPI.COMM_WORLD)
