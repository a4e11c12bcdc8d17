"""Results to draw pages from: a small grid, a pipeline and trainings, with known figures."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bench.core.cell import Cell, Measurement
from bench.core.check import Check
from bench.report.batch_sizes import BatchSize, CriticalBatch, Interval
from bench.report.judged import Judged, Tracked
from bench.report.kinds import FineTuning, Generated, History, Memory, Mutant, Promise, Proof, Race
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
        speedups=[
            [1.5, 1.53, 1.47],
            [1.5 * ratio, 1.52 * ratio, 1.48 * ratio] if ratio else [],
            [1.51 * ratio, 1.49 * ratio] if ratio and ratio < 0.95 else [],
        ],
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


def batch_sizes() -> list[Record]:
    """Three batch sizes on 1 and 2 workers; the largest arrived with one seed of three."""
    steps = {8: [400.0, 420.0, 380.0], 64: [80.0, 90.0, 70.0], 512: [40.0, np.inf, np.inf]}
    return [
        *(
            BatchSize(
                *("mlp", "digits", 0.9, size, 500, [], 0, False, needed),
                rounds={"1": [1e-4 * size, 1.2e-4 * size], "2": [6e-5 * size, 8e-5 * size]},
            )
            for size, needed in steps.items()
        ),
        CriticalBatch(
            *("mlp", "digits", 0.9, 8, 512, 3),
            halves_until=Interval(25.0, 12.0, 50.0),
            pays_until=Interval(400.0, 200.0, 800.0),
            by_steps=Interval(100.0, 50.0, 200.0),
            by_noise=Interval(300.0, 210.0, 400.0),
            by_late_noise=Interval(500.0, 0.0, np.inf),
            fewest_steps=Interval(20.0, 16.0, 25.0),
            fewest_examples=Interval(2000.0, 1600.0, 2500.0),
            misfit=0.1,
        ),
    ]


def tuned(strategy: str, workers: int) -> FineTuning:
    """Four steps of 4 of 14 sequences, so that the last step has 2; evaluated twice."""
    return FineTuning(
        *(strategy, workers, "tuned", "gpt2", 900, "problems", "float32", 14, 9, 64, 4, 2),
        global_step=[1, 2, 3, 4],
        epoch=[4 / 14, 8 / 14, 12 / 14, 1.0],
        loss=[5.0, 4.5, 4.25, 4.0],
        learning_rate=[1e-4, 3e-4, 2e-4, 1e-4],
        grad_norm=[2.0, 1.5, 1.25, 1.0],
        seconds=[0.5 * step / workers for step in range(1, 5)],
        samples=14,
        eval_step=[0, 4],
        eval_loss=[5.5, 4.125],
        eval_runtime=[0.5, 0.25],
        loss_difference=1e-6,
        norm_difference=2e-6,
        first_difference="nowhere",
    )


def language_model() -> list[Record]:
    return [
        tuned("Sequential", 1),
        tuned("ZeRO-1", 2),
        cell("ZeRO-1", 2, 4, 4),
        Memory("ZeRO-1", 2, "gpt2", 4, 10_800_000, None),
        Memory("Sequential", 1, "gpt2", 4, 14_400_000, 2_000_000),
        Generated("before", "def f(", f"x x x\n{EVIL}", 0.8, 40, 0),
        Generated("tuned", "def f(", "x):\n    return [x]", 0.8, 40, 0),
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
        *(("bench/studies/batch_size.py::test_batch_size", each) for each in batch_sizes()),
        *(("bench/studies/gpt2.py::test_fine_tuning", each) for each in language_model()),
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
