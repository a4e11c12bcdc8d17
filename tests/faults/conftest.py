"""Run these tests only in a plain pytest of one process: they start launches of their own."""

from mpi4py import MPI

if MPI.COMM_WORLD.size > 1:
    collect_ignore_glob = ["test_*.py"]
