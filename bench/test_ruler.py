"""Is the ruler straight?"""

import time
from dataclasses import replace

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

import nn
from bench.conftest import RUN
from bench.core import grid
from bench.core.cell import Cell
from bench.core.check import unchecked
from bench.core.cores import available
from bench.core.race import race
from strategies import Sequential
from strategies.records import read

TOPIC = "ruler"

CELL = Cell("Sequential", "mlp", 1, 256, 10_000)


@pytest.mark.workers(1)
def test_plain_training_against_itself(speedup, promise, benchmark, pytestconfig):
    """Plain training measured as a strategy has a speedup of 1, and its record holds its rounds."""
    result = speedup(CELL)
    assert read(pytestconfig.stash[RUN].path).records[-1] == result
    assert benchmark.stats.stats.data == result.rounds["parallel"]
    beside = max(result.speedup_low - 1, 1 - result.speedup_high, 0)
    what = "plain training over itself: how far {}"
    promise(what.format("1 lies outside of the interval"), beside, 0.03, machine=result.machine)
    bound = abs(result.bound - 1)
    promise(what.format("the bound is from 1"), bound, 0.1, machine=result.machine)


def stretched(lasts):
    """Plain training whose every step takes exactly so many seconds."""

    def build(comm):
        strategy = Sequential(nn.mlp([2, 2]), nn.SGD(0.0))

        def step(batch):
            end = time.perf_counter() + lasts
            while time.perf_counter() < end:
                pass
            return 0.0

        strategy.step = step
        return strategy

    return build


@pytest.mark.workers(1)
def test_known_lengths(comm, promise):
    """Steps of 0.5 to 4 ms come back as what they are, in a race of all of them."""
    cell, known = replace(CELL, model="spins"), (0.5e-3, 1e-3, 2e-3, 4e-3)
    cases = [
        replace(
            grid.case(CELL),
            cell=replace(cell, strategy=f"{1e3 * lasts} ms"),
            build=stretched(lasts),
            sequential=lambda: stretched(1e-3)(None),
            check=unchecked("its time is known"),
            runs_silent=False,
        )
        for lasts in known
    ]
    found = race(cases, comm)
    off = [abs(m.speedup * lasts / 1e-3 - 1) for m, lasts in zip(found, known)]
    what = "steps of known length: worst error of a speedup"
    promise(what, max(off), 0.01, machine=found[0].machine)


@pytest.mark.full
@pytest.mark.workers(1)
def test_a_neighbour_that_disturbs(comm, promise):
    """One contender empties the caches and leaves threads spinning; plain training is raced too."""
    case = grid.case(CELL)

    def disturbing(comm):
        strategy = case.build(comm)
        far, a = np.ones(2**25, np.float32), np.ones((512, 512), np.float32)
        real = strategy.step

        def step(batch):
            np.multiply(far, 1.0, out=far)
            with threadpool_limits(available()):  # its threads spin on for a tenth of a second
                a @ a
            return real(batch)

        strategy.step = step
        return strategy

    neighbour = replace(
        case,
        cell=replace(CELL, strategy="disturbs"),
        build=disturbing,
        check=unchecked("it trains as before"),
        runs_silent=False,
    )
    plain, _ = race([case, neighbour], comm, seconds=4.0)
    what = "plain training over itself beside a neighbour that disturbs: error"
    promise(what, abs(plain.speedup - 1), 0.02, machine=plain.machine)
