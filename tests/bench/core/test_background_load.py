"""The background load of this host, and the cells that it disturbs."""

import os
import subprocess
import sys
import time

import psutil
import pytest

from bench.core.background_load import BackgroundLoad, disturbed
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
