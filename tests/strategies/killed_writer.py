"""Kill a process that appends records, again and again, and say what it had reported.

    python -m tests.strategies.killed_writer FILE TIMES

Prints, for each writer, how many records it had reported as appended when it was killed.
"""

import os
import random
import signal
import sys
import time

import mpi4py

mpi4py.rc.initialize = False  # it forks, and needs no ranks

from strategies.records import RunFile  # noqa: E402

SIZES = (0, 100, 10_000, 3_000_000)
"""Bytes of text in the records, in turn: a kill cuts off a large one more often."""


def write(path: str, writer: int, report: int) -> None:
    file = RunFile(path, {"command": "killed_writer"})
    for number in range(10**9):
        text = "x" * SIZES[number % len(SIZES)]
        file.append({"kind": "numbered", "writer": writer, "number": number, "text": text})
        os.write(report, b".")


def main(path: str, times: int) -> None:
    rng = random.Random(0)
    for writer in range(times):
        read_end, write_end = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(read_end)
            write(path, writer, write_end)
        os.close(write_end)
        # Every other writer lives until its first record at least, however busy the machine is.
        reported = os.read(read_end, 1) if writer % 2 else b""
        time.sleep(rng.uniform(0, 0.03))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        while more := os.read(read_end, 4096):
            reported += more
        os.close(read_end)
        print(len(reported), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
