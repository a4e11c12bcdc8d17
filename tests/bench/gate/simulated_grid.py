"""A grid of simulated cells, which the programs of the gate save and compare."""

import json
from pathlib import Path

from bench.gate import baselines, compare
from bench.gate.launches import Launch
from tests.bench.gate.fake_mpiexec import cells

GRID = {name: {"parallel": 1.4} for name in "abcdef"}


def write_grid(folder, **changes):
    """Write grid.json: GRID with changes; None leaves a cell out."""
    specs = {name: spec for name, spec in (GRID | changes).items() if spec is not None}
    (folder / "grid.json").write_text(json.dumps(specs))


def simulated_start(ranks, command, root, label="", number=0):
    """Return the launch of a grid.json in place of `launcher.start`, without a process."""
    grid = Path(root, "grid.json")
    lines = list(cells(grid, command)) if grid.exists() else []
    measured = {line["id"]: line | {"background_load": 0.0} for line in lines if line}
    return Launch(measured, failure="ended with code 3" if None in lines else None)


def save_baseline(*arguments, name="main"):
    assert baselines.main(["-n", "2", "--save", name, *arguments]) == 0


def verdicts(path="report.json"):
    return {v["cell"]: v for v in json.loads(Path(path).read_text())["verdicts"]}


def judged(*arguments, name="main"):
    """Compare with a baseline, and return the exit code and the outcome of every cell."""
    code = compare.main([name, "--json", "report.json", *arguments])
    return code, {cell: v["outcome"] for cell, v in verdicts().items()}
