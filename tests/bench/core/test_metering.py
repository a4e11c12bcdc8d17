"""Metering counts exactly, silence sends nothing, and otherwise neither changes anything."""

import time

import numpy as np
import pytest
from mpi4py import MPI

import nn
from bench.core import metering
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
    assert not metered.record.calls
    assert metered.record.waiting == metered.record.communication == 0


def test_sends_of_counts_and_datatypes_are_counted_to_the_byte(comm):
    metered = Metered(comm)
    size, rank = comm.size, comm.rank
    after, before = (rank + 1) % size, (rank - 1) % size
    counts = [1 + k for k in range(size)]
    starts = np.cumsum([0, *counts[:-1]]).tolist()
    parts = np.empty(sum(counts))
    requests = [
        metered.Ibcast(np.ones(3), root=0),
        metered.Iallgatherv(MPI.IN_PLACE, [parts, (counts, starts), MPI.DOUBLE]),
    ]
    MPI.Request.Waitall(requests)
    metered.Sendrecv_replace(np.ones(4, np.float32), after, 0, before, 0)
    metered.Bcast([bytearray(80), 5, MPI.DOUBLE], root=0)
    # Each rank takes the place of its own number in what every rank sends.
    received = np.empty(size * counts[rank])
    metered.Alltoallv([parts, counts], [received, [counts[rank]] * size])
    assert metered.record.sent == {
        **({"Ibcast": 24, "Bcast": 40} if rank == 0 else {}),
        "Iallgatherv": 8 * counts[rank],
        "Sendrecv_replace": 16,
        "Alltoallv": 8 * sum(counts),
    }


@pytest.fixture
def ticks(monkeypatch):
    """A clock that ticks each time it is read: whatever is timed takes a second."""
    seconds = iter(range(10**6))
    monkeypatch.setattr(metering, "perf_counter", lambda: float(next(seconds)))


@pytest.mark.workers(1)
@pytest.mark.parametrize(
    ("call", "waiting", "communication"),
    [
        (lambda comm: comm.Barrier(), 1, 0),
        (lambda comm: comm.Allreduce(MPI.IN_PLACE, np.ones(2)), 1, 1),
        (lambda comm: comm.Isend(np.ones(2), 0).Free(), 0, 1),
        (lambda comm: comm.Iallreduce(MPI.IN_PLACE, np.ones(2)).Wait(), 1, 1),
        (lambda comm: comm.Ibarrier().Test(), 1, 1),
    ],
)
def test_each_verb_is_waiting_or_communication(comm, ticks, call, waiting, communication):
    metered = Metered(comm)
    call(metered)
    found = metered.record
    assert (found.waiting, found.communication) == (waiting, communication)


@pytest.mark.workers(1)
@pytest.mark.parametrize(
    "name", ["Waitall", "Waitany", "Waitsome", "Testall", "Testany", "Testsome"]
)
def test_waits_for_lists_of_requests_are_waiting(comm, ticks, name):
    metered = Metered(comm)
    requests = [comm.Ibarrier() for _ in range(2)]
    with metered.timed_requests():
        getattr(MPI.Request, name)(requests)
    assert metered.record.waiting == 1
    MPI.Request.Waitall(requests)
    assert metered.record.waiting == 1, "only within the context"


@pytest.mark.workers(3)
def test_another_message_that_has_come_ends_no_wait(comm):
    """Neither of another rank nor with another tag."""
    late, metered, got = 0.1, Metered(comm), np.empty(1)
    comm.Barrier()
    if comm.rank == 0:
        comm.Probe(2, 7)
        comm.Probe(1, 8)
        metered.Recv(got, 1, 7)
        assert got == 1.0
        assert metered.record.waiting > 0.5 * late
        assert metered.record.communication < 0.5 * late
        comm.Recv(got, 2, 7)
        comm.Recv(got, 1, 8)
    elif comm.rank == 1:
        comm.Send(np.zeros(1), 0, 8)
        time.sleep(late)
        comm.Send(np.ones(1), 0, 7)
    else:
        comm.Send(np.zeros(1), 0, 7)


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


@pytest.mark.workers(1)
def test_only_what_would_be_received_is_touched_in_silence(comm):
    silent = Silent(comm)
    sent, received, whole = np.full(3, 5.0), np.full(3, np.nan), np.full(3, 7.0)
    with silent.silence():
        silent.Bcast(whole, root=0)
        silent.Sendrecv(sent, 0, 0, received, 0, 0)
    assert (whole == 7).all(), "the root has what the others would receive"
    assert (sent == 5).all()
    assert (received == 0).all()


@pytest.mark.workers(1)
def test_numbers_without_a_meaning_overflow_without_a_word_in_silence_alone(comm):
    silent, large = Silent(comm), np.full(1, 1e308)
    with silent.silence():
        assert np.isinf(10 * large)
    with pytest.raises(RuntimeWarning, match="overflow"):
        10 * large


@pytest.mark.workers(1)
def test_an_error_in_silence_ends_it(comm):
    silent, got = Silent(comm), np.zeros(1)
    with pytest.raises(KeyError), silent.silence():
        raise KeyError
    silent.Allreduce(np.ones(1), got)
    assert got == 1


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
