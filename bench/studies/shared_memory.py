"""Is it faster to read the parameters of other ranks in place, or to keep a copy?

It depends on whether the cores share a cache, which a virtual machine may change every few minutes;
a line below the table says so where they shared none. `SharedDataParallel` chooses when it is made,
and keeps to it.
Not part of the common run: `nox -s bench_mpi -- -n 2 bench/studies/shared_memory.py`.
"""

from functools import partial

import numpy as np
import pytest

from bench.core.cell import Case, Cell
from bench.core.check import uneven_rows
from bench.core.grid import MLP_SIZES, optimizer, random_batch
from bench.core.race import race
from bench.core.turns import ratio
from nn import mlp
from strategies import DataParallel, Sequential, SharedDataParallel

pytestmark = pytest.mark.workers(2)

CHOOSES = "SharedDataParallel"
WAYS = {
    CHOOSES: SharedDataParallel,
    "in place": partial(SharedDataParallel, private=False),
    "private copies": partial(SharedDataParallel, private=True),
    "DataParallel": DataParallel,
}
ROWS = 512
NETS = {"mlp": MLP_SIZES, "wide": [784, 1024, 1024, 10]}


@pytest.mark.parametrize("batch_size", [64, 256])
@pytest.mark.parametrize("net", NETS)
def test_shared_memory(comm, record, promise, net, batch_size):
    def build(way, *on):
        return way(mlp(NETS[net]), optimizer(), *on)

    batches = [random_batch(batch_size)] * (ROWS // batch_size)
    cases = [
        Case(
            Cell(name, net, comm.size, batch_size, ROWS),
            partial(build, way),
            partial(build, Sequential),
            batches,
            [*batches[:2], random_batch(uneven_rows(comm.size, batch_size))],
        )
        for name, way in WAYS.items()
    ]
    times = {}
    for case, result in zip(cases, race(cases, comm)):
        if isinstance(result, Exception):
            raise result
        record(result)
        times[case.cell.strategy] = result.rounds["parallel"]
    best = min(WAYS, key=lambda name: np.median(times[name]))
    promise(
        f"{CHOOSES} / the fastest of these, {best}: {net}, batch {batch_size}",
        ratio(times[CHOOSES], times[best]),
        1.03,
        times[CHOOSES],
        machine=result.machine,
        rounds=times,
        steps_per_round=result.steps_per_round,
    )
