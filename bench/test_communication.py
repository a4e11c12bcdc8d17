"""What does it cost to bring the ranks' gradients together?"""

from functools import partial

import numpy as np
import pytest
from mpi4py import MPI

from bench.core.arms import SHORTEST_CALLS, together
from bench.core.cores import available
from bench.core.grid import worker_counts
from bench.core.race import ROUNDS
from bench.core.turns import Contender, take_turns
from bench.marks import only_in_full_grid
from bench.report.kinds import Transfer
from nn.batch import bounds
from strategies.comm.shared_window import SharedWindow

WORKERS = [n for n in worker_counts() if n > 1]
SIZES = [only_in_full_grid(2**12), only_in_full_grid(2**16), 940_072, only_in_full_grid(2**24)]
"""Bytes; the third is the gradient of the mlp in float32."""


@pytest.fixture
def timed(comm, workers, record):
    """Time `run(first, times)` in rounds and record how long `size` bytes take."""

    def timed(verb, size, run):
        contender = Contender(partial(together, comm, run))
        turns = take_turns({verb: contender}, ROUNDS[1], shortest=SHORTEST_CALLS)
        rounds = turns.per_step[verb]
        result = Transfer(verb, workers, size, float(np.median(rounds)), workers > available())
        extra = {"verb": verb, "workers": workers, "bytes": size, "bandwidth": result.bandwidth}
        said = f"{1e-9 * result.bandwidth:.2f} GB/s" if size else f"{1e6 * result.seconds:.1f} us"
        record(result, said, rounds, extra)

    return timed


@pytest.mark.parametrize("workers", WORKERS)
def test_barrier(comm, timed, workers):
    """Ranks that wait for each other send nothing. So ends every turn of several ranks."""

    def run(first, times):
        for _ in range(times):
            comm.Barrier()

    timed("Barrier", 0, run)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("workers", WORKERS)
def test_allreduce(comm, timed, workers, size):
    buffer = np.zeros(size // 4, np.float32)  # remains 0, however often it is summed

    def run(first, times):
        for _ in range(times):
            comm.Allreduce(MPI.IN_PLACE, buffer, MPI.SUM)

    timed("Allreduce", size, run)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("workers", WORKERS)
def test_gloo(comm, timed, workers, size):
    """The same sum by torch.distributed, which uses sockets even within one machine."""
    from strategies.comm.torch_comm import TorchComm  # torch takes seconds to load: here alone

    buffer = np.zeros(size // 4, np.float32)

    def run(first, times):
        for _ in range(times):
            ranks.Allreduce(MPI.IN_PLACE, buffer, MPI.SUM)

    with TorchComm.from_mpi(comm) as ranks:
        timed("Allreduce, gloo", size, run)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("workers", WORKERS)
def test_shared_window(comm, timed, workers, size):
    """Every rank sums its slice of all rows, between two barriers."""
    window = SharedWindow(comm, np.float32, workers, size // 4)
    mine = slice(*bounds(comm.rank, workers, size // 4))
    rows = [row[mine] for row in window.rows]

    def run(first, times):
        for _ in range(times):
            window.fence()
            for row in rows[1:]:
                np.add(rows[0], row, out=rows[0])
            window.fence()

    timed("shared window", size, run)
    rows.clear()
    window.close()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("workers", WORKERS)
def test_handing_over(comm, timed, workers, size):
    """Every rank writes its row, which the rank before it reads.

    Without a common cache it takes many times as long to write what another core has read.
    """
    window = SharedWindow(comm, np.float32, workers, size // 4)
    written, read = window.rows[comm.rank], window.rows[(comm.rank + 1) % workers]
    target = np.empty(size // 4, np.float32)

    def run(first, times):
        nonlocal written, read
        for _ in range(times):
            written.fill(first)
            window.fence()
            np.copyto(target, read)
            window.fence()

    timed("handing over", size, run)
    del written, read
    window.close()


@pytest.mark.workers(1)
@pytest.mark.parametrize("size", SIZES)
def test_copy(comm, timed, workers, size):
    """One rank copies as many bytes: the memory allows no more."""
    source, target = np.ones(size // 4, np.float32), np.empty(size // 4, np.float32)

    def run(first, times):
        for _ in range(times):
            np.copyto(target, source)

    timed("plain copy", size, run)
