"""A suite that uses COMM_WORLD everywhere, and communicators that it has made of it before."""

import contextlib
import os
import pickle
import signal
import unittest
from collections.abc import Iterator

import numpy as np
import pytest
from mpi4py import MPI
from mpi4py.MPI import COMM_WORLD

ALL = COMM_WORLD.size
OF_MODULE = COMM_WORLD.Dup()
at_once = pytest.mark.deadline(30.0)


@pytest.fixture(scope="session")
def of_session() -> Iterator[MPI.Comm]:
    comm = COMM_WORLD.Split(0)
    yield comm
    comm.Barrier()  # fails after a fault


def test_before(of_session: MPI.Comm) -> None:
    assert of_session.allreduce(1) == OF_MODULE.allreduce(1) == ALL


class TestAll(unittest.TestCase):
    def test_all_fail(self) -> None:
        """No rank is stuck, so nothing has to be revoked."""
        raise RuntimeError("planted on all ranks")


def test_nothing_is_revoked() -> None:
    assert OF_MODULE.allreduce(1) == ALL


@at_once
def test_raise(faulty: bool) -> None:
    if faulty:
        raise RuntimeError("planted")
    COMM_WORLD.allreduce(1)


def test_everything_works() -> None:
    """What the object could do before, it can do after a fault."""
    assert COMM_WORLD is MPI.COMM_WORLD
    assert COMM_WORLD.allreduce(1) == COMM_WORLD.size == ALL
    sums = np.zeros(1)
    COMM_WORLD.Allreduce(np.ones(1), sums)
    assert sums == ALL
    assert not COMM_WORLD.Is_revoked()
    assert MPI.COMM_SELF.sendrecv(COMM_WORLD, 0, source=0) is COMM_WORLD  # pickled on the way
    with pytest.raises(ValueError, match="cannot serialize"):
        pickle.dumps(COMM_WORLD.Dup())
    assert COMM_WORLD.name == "MPI_COMM_WORLD"
    assert COMM_WORLD.Get_errhandler() == MPI.ERRORS_RETURN
    assert COMM_WORLD.Get_attr(MPI.TAG_UB) > 32767
    part = COMM_WORLD.Split(COMM_WORLD.rank % 2)
    assert part.allreduce(1) == len(range(COMM_WORLD.rank % 2, ALL, 2))
    assert COMM_WORLD.Get_group().Get_rank() == COMM_WORLD.rank


def test_made_before() -> None:
    """Nobody can renew what a module holds: the failure says so."""
    OF_MODULE.Barrier()


def test_fixture_is_made_again(of_session: MPI.Comm) -> None:
    assert of_session.allreduce(1) == ALL


@at_once
def test_raise_again(of_session: MPI.Comm, faulty: bool) -> None:
    if faulty:
        raise RuntimeError("planted")
    of_session.allreduce(1)


def test_fixture_is_made_a_third_time(of_session: MPI.Comm) -> None:
    assert of_session.allreduce(1) == COMM_WORLD.allreduce(1) == ALL


def meet() -> None:
    with contextlib.suppress(MPI.Exception):
        COMM_WORLD.Barrier()


class TestCase(unittest.TestCase):
    """Its tearDown runs on the rank that has failed while the others still wait."""

    @pytest.fixture(autouse=True)
    def _ask(self, faulty: bool) -> None:
        self.faulty = faulty

    def setUp(self) -> None:
        self.comm = COMM_WORLD.Dup()

    def tearDown(self) -> None:
        self.comm.Free()

    @at_once
    def test_free_in_teardown(self) -> None:
        if self.faulty:
            raise RuntimeError("planted")
        self.comm.Bcast(np.zeros(1000), root=0)
        self.comm.Barrier()

    @at_once
    def test_wait_in_teardown(self) -> None:
        self.addCleanup(meet)
        if self.faulty:
            raise RuntimeError("planted")
        self.comm.Barrier()

    def test_after_teardown(self) -> None:
        assert self.comm.allreduce(1) == COMM_WORLD.allreduce(1) == ALL


def test_death(faulty: bool) -> None:
    if faulty:
        os.kill(os.getpid(), signal.SIGKILL)
    COMM_WORLD.allreduce(1)


def test_survivors(of_session: MPI.Comm) -> None:
    assert of_session.allreduce(1) == COMM_WORLD.allreduce(1) == COMM_WORLD.size == ALL - 1
