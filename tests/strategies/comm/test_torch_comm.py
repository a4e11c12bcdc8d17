"""Over torch.distributed every strategy learns what it learns over MPI."""

import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from mpi4py import MPI

from nn import SGD, mlp
from nn.torch.model import TorchModel
from strategies import (
    CompressedDataParallel,
    DataParallel,
    Hybrid,
    LocalSGD,
    Pipeline,
    PowerSGD,
    Sequential,
)
from strategies.base import Refused
from strategies.catalog import CATALOG, select
from strategies.comm import json_codec
from strategies.comm.torch_comm import TorchComm
from strategies.training import load, save
from tests.support.optimizers import momentum
from tests.support.oracles import STEP_TOLERANCE, assert_trains_like, random_batches
from tests.support.small_nets import NETS

ROOT = Path(__file__).parents[3]
MPI_OWN = ("PMIX_", "PMI_", "OMPI_COMM_WORLD", "OMPI_MCA_ess", "OMPI_UNIVERSE", "LOCKSTEP_RANKS")
"""Beginnings of the environment variables that mpiexec sets for a process."""


def connect(comm: MPI.Intracomm) -> TorchComm:
    """Connect the ranks of `comm` over gloo, by connections of their own."""
    return _meeting(tuple(comm.allgather(MPI.COMM_WORLD.rank)), comm).Dup()


_meetings: dict[tuple[int, ...], TorchComm] = {}


def _meeting(members: tuple[int, ...], comm: MPI.Intracomm) -> TorchComm:
    if members not in _meetings:
        _meetings[members] = TorchComm.from_mpi(comm, timeout=8)
    return _meetings[members]


def torch_net():
    layers = torch.nn.Linear(5, 6), torch.nn.Tanh(), torch.nn.Linear(6, 4), torch.nn.ReLU()
    return TorchModel([*layers, torch.nn.Linear(4, 3)], dtype="float64", seed=1)


BUILDS = {"numpy": NETS["five_narrow"], "torch": torch_net}
STRATEGIES = select("proof", exact=True, own_loss=False, needs_mpi=False) | {
    "Pipeline-3": partial(Pipeline, micro_batches=3),
    "PowerSGD-all": lambda model, optimizer, comm: CompressedDataParallel(
        model, optimizer, comm, PowerSGD(100)
    ),
}


@pytest.mark.parametrize(
    ("net", "strategy"),
    [
        *(("numpy", strategy) for strategy in STRATEGIES),
        # Both kinds exchange numpy arrays; activations are made by the layers of torch.
        *(("torch", strategy) for strategy in ("DataParallel", "Pipeline", "TensorParallel")),
    ],
)
def test_equals_sequential(comm, strategy, net):
    """7 rows make uneven shards of uneven micro-batches."""
    with connect(comm) as ranks:
        parallel = STRATEGIES[strategy](BUILDS[net](), momentum(), ranks)
        oracle = Sequential(BUILDS[net](), momentum())
        assert_trains_like(oracle, parallel, random_batches(oracle.model, 7, steps=2), comm)
        parallel.close()


@pytest.mark.parametrize(
    ("workers", "grid"), [(2, (1, 1, 2)), (4, (2, 2, 1)), (4, (2, 1, 2)), (4, (1, 2, 2))]
)
@pytest.mark.parametrize("net", BUILDS)
def test_grids_equal_sequential(comm, grid, net):
    with connect(comm) as ranks:
        parallel = Hybrid(BUILDS[net](), momentum(), ranks, *grid, micro_batches=2)
        oracle = Sequential(BUILDS[net](), momentum())
        assert_trains_like(oracle, parallel, random_batches(oracle.model, 5, steps=2), comm)
        parallel.close()


def test_local_sgd_that_always_averages_equals_sequential(comm):
    """Only weights are compared, since its loss is that of this rank's rows."""
    with connect(comm) as ranks:
        parallel = LocalSGD(NETS["cnn"](), momentum(), ranks)
        oracle = Sequential(NETS["cnn"](), momentum())
        for batch in random_batches(oracle.model, 7):
            oracle.step(batch)
            parallel.step(batch)
        difference = np.abs(parallel.weights() - oracle.weights()).max()
        assert difference <= STEP_TOLERANCE * np.abs(oracle.weights()).max()


@pytest.mark.workers(2, 4)
@pytest.mark.parametrize("schedule", ["1f1b", "interleaved"])
def test_large_messages_both_ways(comm, schedule):
    """Messages too large for a buffer: with blocking sends two ranks that send would hang."""

    def build():
        return mlp([20, *[300] * 7, 3], "tanh", "float64")

    with connect(comm) as ranks:
        parallel = Pipeline(build(), SGD(0.1), ranks, micro_batches=4, schedule=schedule)
        oracle = Sequential(build(), SGD(0.1))
        assert_trains_like(oracle, parallel, random_batches(oracle.model, 800, steps=1), comm)
        parallel.close()


def exchange(ranks, dtype, vector):
    """Return what every collective on memory makes of parts of other lengths on every rank."""

    def numbers(n):
        return vector(np.arange(n).astype(dtype) + 10 * ranks.rank)

    counts = [3, 0, 4, 1][: ranks.size]
    own, whole = counts[ranks.rank], sum(counts)
    results = [numbers(n) for n in (5, 5, 5, whole, own, whole, whole, 2 * ranks.size, 4)]
    total, same, later, scattered, part, gathered, in_place, equal, cast = results
    ranks.Allreduce(numbers(5), total, MPI.SUM)
    ranks.Allreduce(MPI.IN_PLACE, same, MPI.SUM)
    request = ranks.Iallreduce(MPI.IN_PLACE, later, MPI.SUM)
    ranks.Reduce_scatter(MPI.IN_PLACE, scattered, counts, MPI.SUM)
    results[3] = scattered[:own]
    ranks.Reduce_scatter(numbers(whole), part, counts, MPI.SUM)
    ranks.Allgatherv(numbers(own), [gathered, counts])
    ranks.Allgatherv(MPI.IN_PLACE, [in_place, counts])
    ranks.Allgather(numbers(2), equal)
    ranks.Bcast(cast, ranks.size - 1)
    ranks.Barrier()
    request.Wait()
    return [np.asarray(result) for result in results]


@pytest.mark.parametrize("vector", [np.array, torch.from_numpy], ids=["numpy", "torch"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int64"])
def test_collectives_do_what_those_of_mpi_do(comm, dtype, vector):
    with connect(comm) as ranks:
        for ours, theirs in zip(exchange(ranks, dtype, vector), exchange(comm, dtype, vector)):
            np.testing.assert_array_equal(ours, theirs)


class Elsewhere(TorchComm):
    """Reduces in memory of its own, as a GPU does."""

    def _there(self, tensor):
        return super()._there(tensor).clone()


@pytest.mark.workers(2, 3)
def test_buffers_on_another_device_are_copied_there_and_back(comm):
    with Elsewhere.from_mpi(comm, timeout=8) as ranks:
        for ours, theirs in zip(
            exchange(ranks, "float64", np.array), exchange(comm, "float64", np.array)
        ):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.workers(3, 4)
def test_split_orders_by_key(comm):
    with connect(comm) as ranks:
        for color, key in ((0, -ranks.rank), (ranks.rank % 2, 0), (ranks.rank == 1, -ranks.rank)):
            ours, theirs = ranks.Split(color, key), comm.Split(color, key)
            assert (ours.rank, ours.size) == (theirs.rank, theirs.size)
            assert ours.allgather(ranks.rank) == theirs.allgather(comm.rank)
            ours.Free()
            theirs.Free()
        alone = ranks.Split(MPI.UNDEFINED if ranks.rank else 5)
        assert alone == MPI.COMM_NULL if ranks.rank else alone.size == 1
        with ranks.Dup() as all_again:  # of ranks that have made different numbers of them
            assert all_again.allgather(ranks.rank) == list(range(ranks.size))


@pytest.mark.workers(2)
def test_messages_of_a_duplicate_are_its_own(comm):
    with connect(comm) as ranks, ranks.Dup() as other:
        data = [np.full(3, value) for value in (1.0, 2.0)]
        if ranks.rank == 0:
            requests = [other.Isend(data[1], 1, tag=5), ranks.Isend(data[0], 1, tag=5)]
        else:
            received = [np.zeros(3), np.zeros(3)]
            requests = [ranks.Irecv(received[0], 0, 5), other.Irecv(received[1], 0, 5)]
        for request in requests:
            request.Wait()
        if ranks.rank == 1:
            np.testing.assert_array_equal(received, data)


@pytest.mark.workers(2)
def test_duplicates_do_not_find_those_before_them(comm):
    with connect(comm) as ranks:
        for _ in range(3):
            if ranks.rank == 0:
                time.sleep(0.1)  # time to find where it was before
            with ranks.Dup() as other:
                assert other.allgather(other.rank) == [0, 1]


@pytest.mark.workers(2)
def test_tags_tell_messages_apart(comm):
    with connect(comm) as ranks:
        data = np.zeros((2, 3))
        if ranks.rank == 0:
            requests = [ranks.Isend(np.full(3, tag + 1.0), 1, tag) for tag in (0, 1)]
        else:
            requests = [ranks.Irecv(data[tag], 0, tag) for tag in (1, 0)]
        for request in requests:
            request.Wait()
            assert request.Test()
        assert data.tolist() == ([[0] * 3] * 2 if ranks.rank == 0 else [[1] * 3, [2] * 3])


def test_small_objects_on_every_rank(comm):
    with connect(comm) as ranks:
        values = [(rank, "x" * rank, None, [0.1, float("inf")]) for rank in range(comm.size)]
        assert ranks.allgather(values[comm.rank]) == values
        for root in range(comm.size):
            assert (
                ranks.bcast(values[comm.rank] if comm.rank == root else None, root)
                == (values[root])
            )


@pytest.mark.workers(1)
@pytest.mark.parametrize(
    "value",
    [
        (1, [2.5, None], {"a": (True, -0.0), 3: "\u00e4"}),
        np.arange(6.0).reshape(2, 3),
        np.zeros((0, 2), "int16"),
        np.float32(0.1),
    ],
)
def test_small_objects_arrive_as_they_were(value):
    arrived = json_codec.decode(json_codec.encode(value))
    assert type(arrived) is type(value)
    if isinstance(value, np.ndarray | np.generic):
        assert (arrived.dtype, arrived.shape) == (value.dtype, value.shape)
    np.testing.assert_equal(arrived, value)


@pytest.mark.workers(1)
def test_exceptions_arrive_as_the_nearest_of_pythons_own():
    class Ours(ValueError):
        pass

    for sent, kind in (
        (Ours("what"), ValueError),
        (FileNotFoundError(2, "none", "name"), FileNotFoundError),
        (UnicodeDecodeError("utf8", b"x", 0, 1, "why"), RuntimeError),
    ):
        arrived = json_codec.decode(json_codec.encode(sent))
        assert type(arrived) is kind
        assert str(sent) in str(arrived)
    with pytest.raises(TypeError, match="expected None, numbers"):
        json_codec.encode(object())


@pytest.mark.workers(2)
def test_a_checkpoint_that_cannot_be_written_is_told_on_every_rank(comm, tmp_path):
    with connect(comm) as ranks:
        strategy = DataParallel(NETS["two"](), SGD(0.1), ranks)
        with pytest.raises(OSError, match="missing"):
            save(tmp_path / "missing" / "file.npz", strategy)
        with pytest.raises(FileNotFoundError):
            load(tmp_path / "missing.npz", strategy)


@pytest.mark.workers(2)
def test_waiting_for_a_rank_that_has_left_is_an_error_at_once(comm):
    begin = time.monotonic()
    with connect(comm) as ranks:
        if ranks.rank == 0:
            with pytest.raises(RuntimeError, match=r"(?i)connection|peer"):
                ranks.Allreduce(MPI.IN_PLACE, np.zeros(3))
    comm.Barrier()
    assert time.monotonic() - begin < 5  # far below the timeout
    with pytest.raises(ValueError, match="freed"):
        ranks.Allreduce(MPI.IN_PLACE, np.zeros(3))
    with pytest.raises(ValueError, match="freed"):
        DataParallel(NETS["two"](), SGD(0.1), ranks)


@pytest.mark.workers(2)
def test_waiting_for_a_rank_that_does_not_come_ends_in_time(comm):
    with TorchComm.from_mpi(comm, timeout=0.5) as ranks:
        begin = time.monotonic()
        if ranks.rank == 0:
            with pytest.raises(RuntimeError, match=r"(?i)timed out"):
                ranks.Allreduce(MPI.IN_PLACE, np.zeros(3))
        comm.Barrier()
        assert time.monotonic() - begin < 5


@pytest.mark.workers(2)
@pytest.mark.parametrize("strategy", select(needs_mpi=True))
def test_strategies_that_need_mpi_say_so(comm, strategy):
    with connect(comm) as ranks, pytest.raises(Refused, match="MPI"):
        CATALOG[strategy](NETS["two"](), SGD(0.1), ranks)


@pytest.mark.workers(2)
def test_ranks_that_begin_apart_are_refused(comm):
    with connect(comm) as ranks, pytest.raises(ValueError, match="models differ"):
        DataParallel(mlp([3, 2], seed=comm.rank), SGD(0.1), ranks)


@pytest.mark.workers(1)
def test_wrong_arguments_say_what_was_expected(comm, monkeypatch):
    for backend, available, gpus, message in (
        ("mpi", True, 8, "gloo, nccl"),
        ("nccl", False, 8, "built without"),
        ("nccl", True, 0, "1 ranks and 0 GPUs"),
    ):
        monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda is_=available: is_)
        monkeypatch.setattr(torch.cuda, "device_count", lambda gpus=gpus: gpus)
        with pytest.raises(ValueError, match=message):
            TorchComm.from_mpi(comm, backend)
    with connect(comm) as ranks:
        with pytest.raises(ValueError, match=r"MPI\.SUM"):
            ranks.Allreduce(MPI.IN_PLACE, np.zeros(3), MPI.MAX)
        read_only = np.zeros(3)
        read_only.flags.writeable = False
        for buffer in (np.zeros((4, 2))[:, 0], read_only, torch.zeros(4, 2)[:, 0]):
            with pytest.raises(ValueError, match="contiguous"):
                ranks.Bcast(buffer)
        with pytest.raises(ValueError, match="add up"):
            ranks.Allgatherv(np.zeros(2), [np.zeros(3), [2]])
        with pytest.raises(ValueError, match="do not fit"):
            ranks.Allreduce(np.zeros(3, np.float32), np.zeros(3))


def test_world_under_mpiexec(world):
    with TorchComm.world(timeout=8) as ranks:
        assert (ranks.rank, ranks.size) == (world.rank, world.size)
        assert ranks.allgather(ranks.rank) == list(range(world.size))


@pytest.mark.workers(1)
@pytest.mark.deadline(60)
def test_world_under_torchrun(comm, tmp_path):
    environment = {k: v for k, v in os.environ.items() if not k.startswith(MPI_OWN)}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    run = subprocess.run(
        [*launcher, "-m", "tests.strategies.comm.train_over_torch", tmp_path],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    oracle = Sequential(NETS["five_narrow"](), SGD(0.1))
    for batch in random_batches(oracle.model, 7):
        oracle.step(batch)
    for rank in range(2):
        weights = np.load(tmp_path / f"{rank}_of_2.npy")
        difference = np.abs(weights - oracle.weights()).max()
        assert difference <= STEP_TOLERANCE * np.abs(oracle.weights()).max()
