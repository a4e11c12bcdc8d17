"""Metering counts exactly, silence sends nothing, and otherwise neither changes anything."""

import time

import numpy as np
import pytest
from mpi4py import MPI

import nn
from bench.core.metering import Metered
from bench.core.silence import Silent
from strategies import DataParallel, SharedDataParallel
from strategies.base import COMPARED_STEPS


def test_sends_are_counted_to_the_byte(comm):
    metered = Metered(comm)
    n, size, rank = 100, comm.size, comm.rank
    vector, single = np.ones(n), np.ones(n, np.float32)
    metered.Allreduce(MPI.IN_PLACE, vector)
    metered.Allreduce(single, np.empty_like(single), MPI.SUM)
    metered.Bcast(vector, root=size - 1)
    parts = np.empty(size * n)
    metered.Allgather(vector, parts)
    counts = [n + k for k in range(size)]
    metered.Allgatherv(np.ones(counts[rank]), [np.empty(sum(counts)), counts])
    metered.Allgatherv(MPI.IN_PLACE, [np.empty(sum(counts)), counts])
    metered.Reduce_scatter(np.ones(sum(counts)), np.empty(counts[rank]), counts)
    metered.Allgather(MPI.IN_PLACE, parts)
    metered.Barrier()
    expected = {
        "Allreduce": 8 * n + 4 * n,
        "Allgather": 2 * 8 * n,
        "Allgatherv": 2 * 8 * counts[rank],
        "Reduce_scatter": 8 * sum(counts),
    }
    if rank == size - 1:
        expected["Bcast"] = 8 * n
    assert metered.record.sent == expected
    assert metered.record.calls["Barrier"] == 1
    metered.record.clear()
    assert not metered.record.sent
    assert metered.record.waiting == 0


@pytest.mark.workers(2, 3)
def test_messages_between_two_are_counted_to_the_byte(comm):
    metered = Metered(comm)
    after, before = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
    data, got = np.full(50, comm.rank, np.float32), np.empty(50, np.float32)
    request = metered.Isend([data, 20, MPI.FLOAT], after, tag=7)
    metered.Recv([got, 20, MPI.FLOAT], source=before, tag=7)
    request.Wait()
    assert (got[:20] == before).all()
    metered.Sendrecv(data, after, 0, got, before, 0)
    with metered.timed_requests():
        MPI.Request.Waitall([metered.Irecv(got, before), metered.Isend(data, after)])
    assert (got == before).all()
    assert metered.record.sent == {"Isend": 80 + 200, "Sendrecv": 200}


@pytest.mark.workers(2)
def test_waiting_is_told_from_communication(comm):
    late = 0.1
    metered = Metered(comm)
    data, got = np.ones(10), np.empty(10)

    def other_is_late(call):
        metered.record.clear()
        comm.Barrier()
        if comm.rank == 1:
            time.sleep(late)
        call()
        assert metered.record.communication < 0.5 * late
        assert (metered.record.waiting > 0.5 * late) == (comm.rank == 0)

    other_is_late(metered.Barrier)
    other_is_late(lambda: metered.Allreduce(MPI.IN_PLACE, data))
    if comm.rank == 0:
        other_is_late(lambda: metered.Recv(got, source=1))
    else:
        other_is_late(lambda: metered.Send(data, 0))
    with metered.timed_requests():
        other_is_late(lambda: MPI.Request.Waitall([metered.Iallreduce(MPI.IN_PLACE, data)]))
    other_is_late(lambda: metered.Ibarrier().Wait())


def test_data_parallel_sends_its_gradient_and_shared_memory_nothing(comm):
    model = nn.mlp([8, 6, 3])
    batch = nn.Batch(np.ones((5, 8), np.float32), np.arange(5) % 3)
    metered = Metered(comm)
    DataParallel(model, nn.SGD(0.1), metered).step(batch)
    assert metered.record.sent == {"Allreduce": 4 * (len(model.params) + 1)}  # and the loss
    metered.record.clear()
    shared = SharedDataParallel(nn.mlp([8, 6, 3]), nn.SGD(0.1), metered)
    shared.step(batch)
    assert not metered.record.sent
    shared.close()


@pytest.mark.parametrize("kind", [Silent, Metered])
def test_derived_communicators_are_of_the_family(comm, kind):
    family = kind(comm)
    grid = family.Create_cart([comm.size, 1])
    derived = [family.Dup(), family.Split(0, -comm.rank), family.Split_type(MPI.COMM_TYPE_SHARED)]
    derived += [grid, grid.Sub([True, False]), family.Create(family.Get_group())]
    assert all(d.record is family.record for d in derived)
    assert grid.Get_coords(comm.rank) == [comm.rank, 0]
    assert derived[1].rank == comm.size - 1 - comm.rank
    assert family.Split(MPI.UNDEFINED) == MPI.COMM_NULL
    total = np.ones(1)
    grid.Allreduce(MPI.IN_PLACE, total)
    assert total[0] == comm.size
    for d in reversed(derived):
        d.Free()


@pytest.mark.workers(2, 3)
def test_silence_sends_nothing_and_waits_for_nobody(comm):
    """Only rank 0 calls: if anything were sent, it would wait for the others for ever."""
    silent = Silent(comm)
    known, unknown = np.full(4, 7.0), np.full(4, np.nan)
    if comm.rank == 0:
        with silent.silence():
            silent.Barrier()
            silent.Allreduce(MPI.IN_PLACE, known)
            assert (known == 7).all()
            silent.Recv(unknown, source=1)
            assert (unknown == 0).all(), "memory that may hold anything must hold numbers"
            unknown[:] = 3
            requests = [silent.Irecv(unknown, 1), silent.Isend(known, 1)]
            MPI.Request.Waitall(requests)
            assert (unknown == 3).all(), "known memory is left as it is"
    data = np.full(1, float(comm.rank))
    silent.Allreduce(MPI.IN_PLACE, data)
    assert data[0] == sum(range(comm.size))


@pytest.mark.workers(1)
def test_silence_finds_new_arrays_in_old_memory(comm):
    silent, memory = Silent(comm), np.empty(8)

    def array():
        return np.frombuffer(memory.data, np.float64)

    with silent.silence():
        for stale in (np.nan, 5e-324):
            received = array()
            received[:] = stale
            silent.Recv(received[2:], source=0)
            assert (received[2:] == 0).all(), "memory that is used again may hold anything"
            received[2:] = 3
            silent.Recv(received[2:], source=0)
            assert (received[2:] == 3).all(), "another view of an array that is known"


def test_private_memory_begins_alike_and_is_ones_own(comm):
    silent = Silent(comm)
    rng = np.random.default_rng(0)
    batch = nn.Batch(rng.random((12, 8), np.float32), rng.integers(0, 3, 12))
    with silent.private_memory():
        strategy = SharedDataParallel(nn.mlp([8, 6, 3]), nn.SGD(0.1), silent)
    assert (strategy.weights() == nn.mlp([8, 6, 3]).params).all()
    for _ in range(COMPARED_STEPS):  # in which ranks wait for each other to compare their batches
        strategy.step(batch)
    before = strategy.weights()
    comm.Barrier()
    if comm.rank == 0:
        with silent.silence():
            strategy.step(batch)
    comm.Barrier()
    assert (strategy.weights() != before).any() == (comm.rank == 0)
    strategy.close()
