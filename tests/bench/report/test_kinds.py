"""Every kind of result comes back from its file as it was written, and is shown in a table."""

import math
from dataclasses import replace

import pytest

from bench.core.cell import Cell
from bench.report.batch_sizes import Interval, Tried
from bench.report.demo_records import DemoRace, Difference, LaneResult, Slice
from bench.report.kinds import (
    BatchSize,
    CriticalBatch,
    Crossover,
    EnsembleScores,
    FineTuning,
    Generated,
    History,
    Judged,
    KFold,
    Measurement,
    Memory,
    Mutant,
    Promise,
    Proof,
    Race,
    Scaling,
    Search,
    Task,
    Tracked,
    Transfer,
    Use,
    WrongCell,
)
from bench.report.proofs import Comparison
from bench.report.table import main, render
from strategies.records import Record, Run, RunFile, Unknown, from_dict, read
from strategies.tasks.kfold import FoldScore, Scores
from strategies.tasks.search import Rung, Trial
from strategies.training import Evaluation

pytestmark = pytest.mark.workers(1)

CELL = Cell("DataParallel", "mlp", 2, 64, 1000)
MEASUREMENT = Measurement(
    cell=CELL,
    speedup=1.5,
    speedup_low=1.4,
    speedup_high=1.6,
    efficiency=0.75,
    bound=None,
    threads_speedup=1.1,
    oversubscribed=False,
    check_error=1e-7,
    samples_per_second=1234.5,
    steps_per_round=10,
    rounds={"sequential": [0.3, 0.31], "parallel": [0.2, 0.21]},
    profile={"compute": [0.9, 0.8], "communication": [0.1, 0.1], "waiting": [0.0, 0.1]},
    operations=[[("F", 0, 0, 0.0, 0.25)], [("F", 1, 0, 0.25, 0.5)]],
)
EXAMPLES = [
    MEASUREMENT,
    WrongCell(CELL, math.inf, "the weights differ"),
    Transfer("Allreduce", 2, 940_072, 0.00025, True),
    Race("net", 2, 64, 10, {"plain": [0.4, 0.44], "ZeRO": [0.2, 0.2]}, 0.25),
    FineTuning(
        *("ZeRO", 2, "tuned", "gpt2", 900, "problems", "float32", 50, 9, 64, 4, 2),
        *([1, 2], [0.08, 0.16], [5.0, 4.5], [1e-4, 3e-4], [2.0, 1.5], [0.5, 1.0], 8),
        *([2], [4.75], [0.5], 1e-6, 2e-6, "nowhere"),
    ),
    Generated("after", "def f(", "x):\n    return [x]", 0.8, None, 3),
    Memory("ZeRO", 2, "gpt2", 4, 10_800, None),
    Scaling(*("strong", "ZeRO", "net", 2, 1024, 0.75, 0.7, 0.8, False)),
    Crossover("strong", "net", 1024, 4000, 0.01, {"2": 0.001}, 1e-6, 1e9),
    History(
        *("digits", 1000, 64, 2, 0, 0, "ZeRO", 2, "ahead"),
        loss=[2.5, 1.25],
        seconds=[0.5, 1.0],
        samples=[64, 128],
        learning_rate=[math.nan, 0.1],
        evaluations=[Evaluation(2, 1.0, 0.5, {"accuracy": 0.875})],
    ),
    Promise("a / b", 1.2, 1.5),
    Judged(
        cell="speedup/a",
        before="main",
        after="this run",
        outcome="slower",
        reason="it takes 10% longer",
        speedup_before=1.5,
        speedup_after=1.35,
        ratio=0.9,
        low=0.85,
        high=0.95,
        sequential_ratio=1.0,
        parallel_ratio=1.11,
        launches=[3, 3, 5],
        tolerance=0.05,
        speedups=[[1.5, 1.52, 1.48], [1.35] * 3, [1.35] * 5],
    ),
    Judged(
        cell="b",
        before="main",
        after="this run",
        outcome="missing",
        reason="gone",
        speedup_before=None,
        speedup_after=None,
        ratio=None,
        low=None,
        high=None,
        sequential_ratio=None,
        parallel_ratio=None,
        launches=[3, 0, 0],
        tolerance=0.05,
    ),
    Tracked(
        *("speedup/a", "slower", "10% slower than at its best"),
        *(["0001_main", "0002_main"], ["2026-01-05", "2026-01-12"], ["ab", ""]),
        speedups=[1.5, 1.35],
        fitted=[1.5, 1.35],
        steps=[1],
        tolerance=0.05,
    ),
    Promise("no limit", math.nan),
    Proof(
        "tests/test_a.py::test_b[1-2]",
        "passed",
        2,
        0.25,
        comparisons=[Comparison("ZeRO", "Model(Linear(2, 3))", 3, 1e-16, 1e-12)],
    ),
    Proof("tests/test_a.py::test_c", "failed", 1, 0.5, "rank 0: AssertionError"),
    Mutant("first_row_only", "Only the first row counts.", "nn/loss.py", ["tests/a.py::test"]),
    Mutant("survivor", "Nobody sees it.", "nn/loss.py", []),
    KFold(
        *("digits", 2, True, 0, 64, 3, "2", 1.5),
        [
            Scores(
                "lenet",
                "cosine",
                [
                    FoldScore([7, 8], [8, 8], 0.25, 0.75, "ab"),
                    FoldScore([8, 5], [8, 8], math.nan, 0.5, "cd"),
                ],
            ),
            Scores("mlp", "cosine", [FoldScore(error="it failed"), FoldScore(error="too")]),
        ],
    ),
    Search(
        *("digits", "halving", 0, "2", 1.5),
        trials=[
            Trial(0, {"lr": 0.1}, [Rung(1, 0.5, 0.7, 0.1, "ab"), Rung(3, 0.8125, 0.2, 0.2, "cd")]),
            Trial(1, {"lr": 9.0}, [Rung(1, error="it failed")]),
        ],
        best=0,
        epochs=3,
        accuracy=0.8125,
        test_accuracy=0.75,
        order=[(0, 0), (1, 0), (0, 1)],
        line="train_configuration({})",
    ),
    EnsembleScores(
        *("digits", 2, 2, 0, 64, 3, "2", 1.5),
        members={"mlp": [0.75, 0.5], "lenet": [0.8, 0.9]},
        combinations={"soft": [0.9, 1.0]},
    ),
    BatchSize(
        *("mlp", "digits", 0.9, 64, 500),
        tried=[Tried(0.1, 0.5, math.inf, 500), Tried(0.05, 0.75, 40.0, 500)],
        best=1,
        at_edge=True,
        steps=[50.0, math.inf, 70.0],
        noise=[90.0, 80.0, 100.0],
        noise_late=[190.0, math.nan, math.inf],
        rounds={"1": [0.01, 0.02, 0.03], "2": [0.005, 0.01, 0.015]},
    ),
    BatchSize("mlp", "digits", 0.9, 256, 200, [Tried(0.1, 0.5, math.inf, 200)], None, False),
    CriticalBatch(
        *("mlp", "digits", 0.9, 8, 512, 3),
        halves_until=Interval(4.0, 2.0, 16.0),
        pays_until=Interval(300.0, 100.0, 900.0),
        by_steps=Interval(100.0, 50.0, 200.0),
        by_noise=Interval(150.0, 100.0, 225.0),
        by_late_noise=Interval(400.0, 0.0, math.inf),
        fewest_steps=Interval(20.0, 16.0, 25.0),
        fewest_examples=Interval(2000.0, 1600.0, 2500.0),
        misfit=0.1,
    ),
    Use("kfold", 0.25, 0.5, {"worker 1": [1.0, 0.5]}, {"worker 1": 0.375}, {"worker 1": 0.125}),
    Slice(*(1, 2, 20, 3, 0.5, 2560, None, 0.75, 1.5)),
    DemoRace(
        *(1, "digits", 3, 0.9, False, "float64", 1000, 166, 1),
        [
            LaneResult(
                *("mlp", "ZeRO-1", 2, 128, 0.1, "finished", "", 0.75, 2048.0, 0.875, 0.25),
                [[3, 1], [0, 2]],
            ),
            LaneResult(
                *("mlp", "Sequential", 1, 128, 0.1, "failed", "died", 0.5, None, None, None)
            ),
        ],
        [Difference((1, 2), 1e-15, "")],
    ),
    Task("ab", {"rate": 0.1}, [1.0], None, 0.5, 1),
    Task("cd", {"rate": 0.2}, None, "it failed", 0.5, 2),
]


def all_kinds(base=Record):
    for kind in base.__subclasses__():
        ours = kind.__module__.startswith(("strategies.", "bench.core.", "bench.report."))
        if ours and kind is not Unknown:
            yield kind
        yield from all_kinds(kind)


def test_every_kind_comes_back_as_the_same_object(tmp_path):
    file = RunFile(tmp_path / "run.jsonl", {"session": "test"})
    for example in EXAMPLES:
        file.append(example)
    back = read(file.path)
    assert not back.damaged
    assert [repr(record) for record in back.records] == [repr(record) for record in EXAMPLES]
    assert {type(record) for record in EXAMPLES} == set(all_kinds())


def test_a_cell_has_its_public_keys_on_the_first_level():
    public = (
        "strategy model workers batch_size dataset_size device speedup speedup_low speedup_high "
        "efficiency bound threads_speedup oversubscribed check_error samples_per_second"
    )
    assert set(public.split()) < set(MEASUREMENT.as_dict())


def test_a_cell_of_an_older_version_has_no_kind_and_is_read():
    line = {"id": "speedup/x", "nodeid": "bench/test_speedup.py::test", **MEASUREMENT.as_dict()}
    del line["kind"]
    cell = from_dict(line)
    assert cell == MEASUREMENT
    assert cell.other_keys == {"id": "speedup/x", "nodeid": "bench/test_speedup.py::test"}


def test_a_verdict_from_before_launches_were_kept_is_read():
    verdict = next(each for each in EXAMPLES if isinstance(each, Judged))
    line = verdict.as_dict()
    del line["speedups"]
    assert from_dict(line) == replace(verdict, speedups=[])


def test_a_file_alone_gives_the_tables(tmp_path, monkeypatch, capsys):
    """As the run that wrote it: the question stands beside each result."""
    file = RunFile(tmp_path / "run.jsonl", {"session": "bench_mpi", "ranks": 2})
    for example in EXAMPLES:
        file.append({**example.as_dict(), "question": f"Is it a {example.kind}?"})
    file.append({"kind": "of-tomorrow", "question": "What is that?"})
    with file.path.open("a") as damage:
        damage.write("not JSON\n")
    monkeypatch.setattr("sys.argv", ["table", str(file.path)])
    main()
    shown = capsys.readouterr().out
    assert render(read(file.path), 120, colour=False) in shown
    for text in (
        "session: bench_mpi",
        "ranks: 2",
        "Is it a cell?",
        "1.40-1.60",
        "WRONG  DataParallel: the weights differ",
        "3.76",  # GB/s
        "at most 1.5",
        "20.00    2.10",  # of the race: milliseconds a step, and over plain
        "0.5000       128    1.2500  accuracy 0.875",
        "1e-04",  # of the tolerance
        "1 tests",
        "survivor",
        "87.50%  8.84%       81.2%",  # of two folds: accuracy, spread, worst class
        "81.25% 75.00%",  # of a search
        "+10.00%             yes",  # of an ensemble
        "2 of 3 70 (50-70) 4,480",  # of a batch size: arrived, steps, rows
        "< 8 to 16",  # of the regimes, of batches from 8 to 512 rows
        "100 to > 512",
        "First at the target: 64 rows on",
        "noise scale is 1.5 times",
        "0.50      0.38    0.12         0.75",  # of a worker's cores
        "failed",
        "87.5%        0.25",  # of a lane of the demo: read right, and seconds to the target
        "1.0e-15",
        f"line {len(EXAMPLES) + 3} cannot be read: Expecting value",
    ):
        assert text in shown
    assert "What is that?" not in shown


def test_results_without_a_question_are_shown_too():
    assert "1.40-1.60" in render(Run(records=[MEASUREMENT]), 120, colour=False)
