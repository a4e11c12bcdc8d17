"""Cells that are saved as soon as they are measured; a rank is killed in the second."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mpi4py import MPI

CELLS = Path(os.environ["PLANTED_LOG"]).with_name("cells.jsonl")


@pytest.mark.parametrize("cell", ["first", "second", "third"])
def test_cell(
    world: MPI.Comm, benchmark: Callable[..., Any], cell: str, victim: int, faulty: bool
) -> None:
    rounds = iter(range(20))

    def measured() -> None:
        if next(rounds) == 5 and cell == "second" and MPI.COMM_WORLD.rank == victim:
            os.kill(os.getpid(), signal.SIGKILL)
        world.Barrier()

    benchmark.pedantic(measured, rounds=10)  # type: ignore[attr-defined]
    if world.rank == 0:
        with CELLS.open("a") as cells:
            cells.write(json.dumps({"cell": cell, "median": benchmark.stats["median"]}) + "\n")  # type: ignore[attr-defined]
