"""Tests that are shared out: some go wrong, while other ranks use communicators of their own."""

import time
import unittest
from collections.abc import Callable

import pytest
from mpi4py import MPI

pytestmark = pytest.mark.workers(1)


class TestCase(unittest.TestCase):
    def test_fails(self) -> None:
        raise RuntimeError("planted")


def test_others_go_on(comm: MPI.Comm) -> None:
    """It lasts longer than the deadline of the next test, which another rank is in."""
    for _ in range(15):
        comm.Barrier()
        time.sleep(0.1)


@pytest.mark.deadline(0.5)
def test_overruns(write_log: Callable[..., None]) -> None:
    time.sleep(1e6)


test_others_go_on_again = test_others_go_on
