"""The background load of this host, and the cells that it disturbs."""

import os
import subprocess
import sys
import time
from collections import namedtuple
from types import SimpleNamespace

import psutil
import pytest
from mpi4py import MPI

from bench.core import background_load
from bench.core.background_load import BackgroundLoad, disturbed, laps
from bench.gate.aa.trial import busy_core

pytestmark = [pytest.mark.workers(1), pytest.mark.deadline(60), pytest.mark.alone]


def test_a_busy_process_outside_is_seen():
    load = BackgroundLoad()
    with busy_core(after=0.0):
        time.sleep(0.5)
        load.lap()
        time.sleep(1.0)
        assert load.lap() > 0.3


def test_the_cores_are_those_of_the_launch(monkeypatch):
    """Also if this rank is bound to one core: the time of all ranks counts as their own."""
    cores = os.sched_getaffinity(0) | os.sched_getaffinity(os.getppid())
    if len(cores) < 2:
        pytest.skip("one core is all cores")
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    monkeypatch.setattr(
        os, "sched_getaffinity", lambda pid: cores if pid == os.getppid() else {min(cores)}
    )
    times = psutil.cpu_times(percpu=True)
    load = BackgroundLoad()
    busier = [core._replace(user=core.user + 1e6) for core in times]
    monkeypatch.setattr(psutil, "cpu_times", lambda percpu: busier)
    _, before, _ = load._last
    _, busy, _ = load._now()
    assert busy - before == pytest.approx(1e6 * len(cores), rel=1e-3)


def test_work_of_children_is_our_own():
    load = BackgroundLoad()
    _, _, before = load._now()
    work = "import time\nwhile time.process_time() < 0.4: pass"  # however long that takes
    subprocess.run([sys.executable, "-c", work], check=True)
    _, _, own = load._now()
    assert own - before > 0.3


def test_the_work_of_all_descendants_is_our_own():
    """Theirs, and that of those that they have waited for; one may end while we look."""

    def process(*seconds, alive=True):
        def times():
            if not alive:
                raise psutil.NoSuchProcess(1)
            return (*seconds, 1e9)  # iowait is no work

        return SimpleNamespace(cpu_times=times)

    child, grandchild, gone = process(1, 2, 4, 8), process(16, 32, 64, 128), process(alive=False)
    launcher = process(256, 512, 1024, 2048)
    launcher.children = lambda recursive=False: [child, *([gone, grandchild] if recursive else [])]
    _, _, own = BackgroundLoad(launcher)._now()
    assert own == 2**12 - 1


def test_a_core_is_busy_when_it_neither_idles_nor_waits_for_a_disk(monkeypatch):
    """What guests use is part of what users use."""
    names = "user nice system idle iowait irq softirq steal guest guest_nice"
    times = namedtuple("Times", names)(1 + 16, 2 + 32, 4, 1e6, 1e9, 8, 64, 128, 16, 32)
    load = BackgroundLoad()
    monkeypatch.setattr(load, "_cores", [1])
    monkeypatch.setattr(psutil, "cpu_times", lambda percpu: [None, times])
    _, busy, _ = load._now()
    assert busy == 1 + 2 + 4 + 8 + 64 + 128 + 16 + 32


@pytest.mark.workers(1, 2)
def test_all_ranks_know_the_load_of_all_that_the_launcher_did_not_start(comm, monkeypatch):
    measured = []

    class Load:
        def __init__(self, process):
            measured.append(process)

        def lap(self):
            return 0.5

    monkeypatch.setattr(background_load, "BackgroundLoad", Load)
    lap = laps(comm)
    assert [lap(), lap()] == [0.5, 0.5]
    launched = MPI.COMM_WORLD.size > 1
    expected = [psutil.Process(os.getppid() if launched else None)]
    assert measured == (expected if comm.rank == 0 else [])


@pytest.mark.parametrize(
    ("load", "needed", "cores", "expected"),
    [
        (0.05, 2, 2, False),
        (0.5, 2, 2, True),
        (1.0, 2, 4, False),
        (2.5, 2, 4, True),
        (0.5, 1, 2, False),
        (0.5, 4, 2, True),
    ],
)
def test_only_load_that_takes_cores_from_a_cell_disturbs(
    monkeypatch, load, needed, cores, expected
):
    monkeypatch.setattr("bench.core.background_load.available", lambda: cores)
    assert disturbed(load, needed) is expected


def test_load_is_the_time_of_others_over_the_time_that_passed(monkeypatch):
    """Our own work is none, and clocks that tick apart make it no less than 0."""
    load = BackgroundLoad()
    load._last = 10.0, 100.0, 50.0  # on the wall, of all programs, our own
    looks = iter([(12.0, 103.0, 51.0), (14.0, 103.5, 52.0)])
    monkeypatch.setattr(load, "_now", lambda: next(looks))
    assert [load.lap(), load.lap()] == [1.0, 0.0]
