"""Processes that are watched: what they compute, apart from what they wait."""

import os
import subprocess
import sys
import time

import pytest

from bench.core.core_use import watched

pytestmark = [pytest.mark.workers(1), pytest.mark.alone]

BUSY = "while True: pass"


def test_computing_and_waiting_are_told_apart() -> None:
    busy = subprocess.Popen([sys.executable, "-c", BUSY])
    try:
        with watched({"busy": busy.pid, "waiting": os.getpid()}, nap=0.1) as use:
            time.sleep(1.0)
    finally:
        busy.kill()
        busy.wait()
    assert use.seconds == pytest.approx(1.0, abs=0.5)
    # On a machine that others use, the busy process gets a part of a core.
    assert use.computing["busy"] > 0.2
    assert use.computing["waiting"] < 0.5 * use.computing["busy"]
    for name in use.cores:
        assert use.computing[name] + use.waiting[name] == pytest.approx(use.seconds, abs=0.1)
        assert len(use.cores[name]) >= 3
        # The last nap is cut short, and not in the list.
        assert sum(use.cores[name]) * use.nap <= use.computing[name] + 0.6
    assert max(use.cores["busy"]) > 0.2


def test_a_process_that_ends_has_used_what_was_seen() -> None:
    short = subprocess.Popen([sys.executable, "-c", "sum(range(10**7))"])
    with watched({"short": short.pid}, nap=0.02) as use:
        short.wait()
        time.sleep(0.1)
    assert use.computing["short"] > 0
    assert min(use.cores["short"]) >= 0
