"""Results to draw pages from: a small grid, a pipeline and trainings, with known figures."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bench.core.cell import Cell, Measurement
from bench.core.check import Check
from bench.report.judged import Judged, Tracked
from bench.report.kinds import History, Mutant, Promise, Proof, Race
from bench.report.proofs import Comparison
from strategies.records import Record, RunFile
from strategies.training import Evaluation

EVIL = "<img src=x onerror=alert(1)>|`$[]({{ 1 }}</script>\"'&"
"""A name that is markup in HTML, in Markdown, in a template and in a script."""


def _about(seconds: float, rng: np.random.Generator) -> list[float]:
    """Five rounds."""
    return list(seconds * (1 + 0.05 * rng.random(5)))


def cell(
    strategy: str = "DataParallel", workers: int = 2, batch: int = 256, rows: int = 10_000
) -> Measurement:
    """A measured cell whose rounds depend on what it is."""
    race = np.random.default_rng([batch, rows])  # what all cells of a race have in common
    own = np.random.default_rng([batch, rows, workers, len(strategy)])
    seconds = {"parallel": 0.6 / workers, "silent": 0.5 / workers}
    rounds = {"sequential": _about(0.4, race), "threads": _about(0.3, race)}
    rounds |= {arm: _about(each, own) for arm, each in seconds.items()}
    return Measurement.of(
        Cell(strategy, "mlp", workers, batch, rows),
        rounds,
        10,
        Check(1e-7),
        profile={
            "compute": [0.8 - 0.1 * rank for rank in range(workers)],
            "communication": [0.15] * workers,
            "waiting": [0.05 + 0.1 * rank for rank in range(workers)],
        },
        machine={"background_load": list(race.random(5))},
    )


def pipeline(schedule: str = "1f1b") -> Measurement:
    """A pipeline of two ranks and two micro-batches, of which each operation is known."""
    measured = cell(f"{schedule}, 2 micro-batches")
    operations = [
        [("F", 0, 0, 0.0, 0.001), ("F", 0, 1, 0.001, 0.002), ("B", 0, 0, 0.004, 0.006)],
        [("F", 1, 0, 0.001, 0.002), ("B", 1, 0, 0.002, 0.004), ("F", 1, 1, 0.004, 0.005)],
    ]
    return Measurement(**{**vars(measured), "operations": operations})


def training(name: str = "plain", steps: int = 200, seed: int = 0) -> History:
    """A training whose loss falls and whose accuracy grows."""
    rng = np.random.default_rng(seed)
    seconds = list(np.cumsum(0.01 + 0.002 * rng.random(steps)))
    loss = list(2.3 / (1 + 0.05 * np.arange(steps)) + 0.05 * rng.random(steps))

    def evaluation(step: int) -> Evaluation:
        accuracy = 1 - 0.9 / (1 + 0.1 * step)
        values = {"loss": loss[step - 1], "accuracy": accuracy, "class 0": accuracy, "class 1": 0.5}
        return Evaluation(step, seconds[step - 1], 0.1, values)

    return History(
        *("digits", 1000, 50, 10, seed, 0, "Sequential", 1, name),
        loss=loss,
        seconds=seconds,
        samples=list(range(50, 50 * steps + 1, 50)),
        learning_rate=[0.1] * steps,
        grad_norm=[float("nan") if i % 20 < 19 else 1.0 + i for i in range(steps)],
        evaluations=[evaluation(step) for step in range(20, steps + 1, 20)],
    )


def race(net: str, batch: int = 256) -> Race:
    """A race of three contenders."""
    rng = np.random.default_rng(batch)
    rounds = {name: _about(seconds, rng) for name, seconds in RACED.items()}
    return Race(net, 1, batch, 20, rounds, 0.0)


RACED = {"the first": 0.4, "a slower one": 0.5, "a faster one": 0.1}


def proofs() -> list[Record]:
    return [
        Proof(
            "tests/test_a.py::test_b[2]",
            "passed",
            2,
            0.25,
            comparisons=[
                Comparison("DataParallel", "Model(Linear(2, 3))", 3, 1e-16, 1e-12),
                Comparison("DataParallel", "Model(Conv2d(2, 3))", 3, 0.0, 0.0),
            ],
        ),
        Proof("tests/test_a.py::test_c", "skipped", 1, 0.5, "needs 4 ranks"),
        Mutant("first_row", "Only one row.", "strategies/data_parallel.py", ["tests/a.py::test"]),
        Mutant("survivor", "Nobody sees it.", "nn/loss.py", []),
    ]


def judged(cell: str, outcome: str, ratio: float | None) -> Judged:
    """A verdict; one without a ratio is of a cell that has gone."""
    return Judged(
        cell=cell,
        before="main",
        after="this run",
        outcome=outcome,
        reason="as it is",
        speedup_before=1.5 if ratio else None,
        speedup_after=1.5 * ratio if ratio else None,
        ratio=ratio,
        low=0.98 * ratio if ratio else None,
        high=1.02 * ratio if ratio else None,
        sequential_ratio=1.0,
        parallel_ratio=1.0,
        launches=[3, 3, 5],
        tolerance=0.05,
    )


def verdicts() -> list[Record]:
    return [
        judged("speedup/mlp", "slower", 0.9),
        judged("speedup/cnn", "pass", 1.01),
        judged("speedup/torch", "inconclusive", 0.97),
        judged("speedup/gone", "missing", None),
    ]


def histories() -> list[Record]:
    names = [f"{number:04}_main" for number in range(1, 7)]
    dates, commits = [f"2026-01-{day:02}" for day in range(1, 7)], ["ab"] * 5 + [""]
    return [
        Tracked(
            *("speedup/mlp", "slower", "10% slower", names, dates, commits),
            speedups=[1.5, 1.51, 1.49, 1.35, 1.36, 1.35],
            fitted=[1.5] * 3 + [1.353] * 3,
            steps=[3],
            tolerance=0.05,
        ),
        Tracked(
            *("speedup/cnn", "inconclusive", "few", names[:2], dates[:2], ["", ""]),
            speedups=[1.1, 1.2],
            fitted=[],
            steps=[],
            tolerance=0.05,
        ),
    ]


def grid() -> list[tuple[str, Record]]:
    """Results, each with the node that measured it."""
    speedups = [
        cell(name, workers, batch)
        for batch in (64, 256)
        for name in ("DataParallel", "SharedDataParallel")
        for workers in (1, 2)
    ]
    idle = Promise(
        "idle share of 1f1b, 2 micro-batches, 2 workers, batch 256 (formula: 0.333)", 0.4
    )
    return [
        *(("bench/test_speedup.py::test_mlp", m) for m in speedups),
        *(("bench/studies/model_parallel.py::test_cost", m) for m in (pipeline(), idle)),
        *(
            ("bench/studies/time_to_accuracy.py::test", training(name, seed=seed))
            for name in ("plain", "two workers")
            for seed in range(2)
        ),
        *(("", record) for record in (*proofs(), *verdicts(), *histories())),
    ]


def studies() -> list[tuple[str, Record]]:
    """Results of studies whose figures are their own."""
    return [
        ("bench/studies/languages.py::test_one_thread[64]", race("mlp, one thread", 64)),
        ("bench/studies/languages.py::test_one_thread[256]", race("mlp, one thread")),
        ("bench/studies/devices.py::test_race[mlp]", race("mlp, devices")),
        *(
            ("bench/studies/projects.py::test_epoch", cell("SharedDataParallel", rows=rows))
            for rows in (10_000, 30_000)
        ),
        ("bench/studies/projects.py::test_base", training("iris, 4-50-3: base, cpu")),
    ]


def save(
    path: Path,
    results: Sequence[tuple[str, Record]],
    date: str = "2026-03-01T12:00:00+00:00",
    **header: object,
) -> Path:
    """Write a run file."""
    about: dict[str, object] = {
        "session": "bench_mpi",
        "command": "pytest bench",
        "date": date,
        "ranks": 2,
    }
    about |= {"commit": "ab" * 20, "dirty": False, "host": "desk", "system": "Linux"}
    machine = {"cpu": "A processor", "cores": 2, "mpi": "Open MPI v5", "blas": ["openblas"]}
    file = RunFile(path, about | {"fingerprint": machine, "versions": {"numpy": "2"}} | header)
    for node, record in results:
        extra: dict[str, object] = {"nodeid": node} if node else {}
        if "idle share" in getattr(record, "what", ""):
            extra |= {"formula": 1 / 3}
        file.append({**record.as_dict(), **extra}, sync=False)
    return path
