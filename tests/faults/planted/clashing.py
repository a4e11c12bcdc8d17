"""Tests that one rank collects differently. PLANTED_CLASH says how."""

import os

from mpi4py import MPI

CLASH = os.environ["PLANTED_CLASH"]

if MPI.COMM_WORLD.rank == int(os.environ["PLANTED_VICTIM"]):
    if CLASH == "import":
        raise ImportError("planted import error")

    def test_additional() -> None:
        pass


def test_same() -> None:
    pass
