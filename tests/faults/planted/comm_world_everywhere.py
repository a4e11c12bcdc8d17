"""A suite as people write it who know no rank-aware pytest: COMM_WORLD everywhere."""

import unittest
from collections.abc import Iterator

import numpy as np
import pytest
from mpi4py import MPI
from mpi4py.MPI import COMM_WORLD

comm = MPI.COMM_WORLD
rank = comm.Get_rank()
size = comm.Get_size()
halves = comm.Split(rank % 2)


@pytest.fixture(scope="session")
def duplicate() -> Iterator[MPI.Intracomm]:
    made = MPI.COMM_WORLD.Dup()
    yield made
    made.Free()


@pytest.fixture
def ring() -> MPI.Cartcomm:
    return comm.Create_cart([size], periods=[True])


def test_the_names_are_one() -> None:
    assert comm == COMM_WORLD == MPI.COMM_WORLD


def test_sum() -> None:
    total = np.zeros(3)
    comm.Allreduce(np.full(3, float(rank)), total)
    assert np.array_equal(total, np.full(3, sum(range(size))))


def test_objects() -> None:
    assert COMM_WORLD.allgather({"rank": rank}) == [{"rank": r} for r in range(size)]
    assert MPI.COMM_WORLD.bcast("word" if rank == 0 else None) == "word"


@pytest.mark.parametrize("root", range(2))
def test_scatter(root: int) -> None:
    assert comm.scatter(list(range(size)) if rank == root else None, root) == rank


def test_messages(ring: MPI.Cartcomm) -> None:
    before, after = ring.Shift(0, 1)
    assert ring.sendrecv(rank, after, source=before) == (rank - 1) % size
    ring.Free()


def test_module_communicator() -> None:
    assert halves.allreduce(rank % 2) == halves.size * (rank % 2)


def test_session_communicator(duplicate: MPI.Intracomm) -> None:
    assert duplicate.allreduce(1) == size


def test_window() -> None:
    memory = np.zeros(1)
    window = MPI.Win.Create(memory, comm=comm)
    window.Fence()
    window.Accumulate(np.ones(1), 0, op=MPI.SUM)
    window.Fence()
    window.Free()
    assert memory[0] == (size if rank == 0 else 0)


@pytest.mark.skipif(size < 2, reason="needs two ranks")
def test_point_to_point() -> None:
    if rank == 0:
        comm.Send(np.arange(4.0), dest=1, tag=7)
    elif rank == 1:
        got = np.empty(4)
        comm.Recv(got, source=0, tag=7)
        assert np.array_equal(got, np.arange(4.0))


class TestCase(unittest.TestCase):
    def setUp(self) -> None:
        self.comm = MPI.COMM_WORLD

    def test_barrier(self) -> None:
        self.comm.Barrier()
        assert self.comm.Get_size() == size
