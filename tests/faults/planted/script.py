"""A training script that a user starts with `python`. PLANTED_WRONG says what goes wrong."""

import atexit
import os
import sys
import threading

from mpi4py import MPI

before = sys.excepthook
sys.excepthook = lambda *about: (print("the hook before", flush=True), before(*about))

import strategies  # noqa: E402, F401

WRONG = os.environ["PLANTED_WRONG"]


def raise_an_error() -> None:
    raise RuntimeError("planted")


def interrupt() -> None:
    raise KeyboardInterrupt


def in_a_thread() -> None:
    thread = threading.Thread(target=raise_an_error)
    thread.start()
    thread.join()


WRONGS = {
    "raise": raise_an_error,
    "interrupt": interrupt,
    "thread": in_a_thread,
    "exit": lambda: sys.exit(3),
    "nothing": lambda: None,
}
atexit.register(lambda: print("at exit", flush=True))
MPI.COMM_WORLD.Barrier()
if MPI.COMM_WORLD.rank == int(os.environ["PLANTED_VICTIM"]) or WRONG.endswith("everywhere"):
    WRONGS[WRONG.partition(" ")[0]]()
MPI.COMM_WORLD.Barrier()
