"""Replace mpiexec and the benchmarks: write the cells of grid.json with simulated round times.

grid.json, in the working directory, maps cells to {"parallel": milliseconds, ...}; "crash": true
ends the launch before that cell.
"""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

RNG = np.random.default_rng()


def line(cell: str, spec: dict) -> dict:
    rng = RNG
    both = rng.normal(0, 0.03, 9)
    effect = rng.normal(0, spec.get("noise", 0.003))

    def rounds(milliseconds: float, own: float) -> list[float]:
        steps = 10
        return (steps * milliseconds / 1e3 * np.exp(both + rng.normal(own, 0.003, 9))).tolist()

    sequential = rounds(spec.get("sequential", 2.0), 0.0)
    parallel = rounds(spec["parallel"], effect)
    speedup = float(np.median(sequential) / np.median(parallel))
    return {
        "kind": "cell",
        "id": cell,
        "nodeid": f"bench/test_fake.py::test_cell[{cell}]",
        "strategy": "Fake",
        "model": "mlp",
        "workers": spec.get("workers", 1),
        "batch_size": 64,
        "dataset_size": 1000,
        "device": "cpu",
        "speedup": speedup,
        "oversubscribed": spec.get("oversubscribed", False),
        "steps_per_round": 10,
        "rounds": {"sequential": sequential, "parallel": parallel},
    }


def cells(grid: Path, arguments: Sequence[str]) -> Iterator[dict | None]:
    """Yield the lines of a launch with these pytest arguments; None last if it crashes."""
    nodes = [argument for argument in arguments if "::" in argument]
    for cell, spec in json.loads(grid.read_text()).items():
        if nodes and not any(f"[{cell}]" in node for node in nodes):
            continue
        if spec.get("crash"):
            yield None
            return
        yield line(cell, spec)


def main() -> int:
    with Path(os.environ["LOCKSTEP_CELLS"]).open("a") as file:
        for cell in cells(Path("grid.json"), sys.argv):
            if cell is None:
                return 3
            file.write(json.dumps(cell) + "\n")
            file.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
