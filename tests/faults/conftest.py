"""These tests start launches of their own: they are for a plain pytest of one process."""

from mpi4py import MPI

if MPI.COMM_WORLD.size > 1:
    collect_ignore_glob = ["test_*.py"]
