"""What records of batch sizes say: medians with trainings that never arrived, and the fastest."""

import math
from dataclasses import replace

import pytest

from bench.report.batch_sizes import BatchSize, CriticalBatch, Interval, fastest

pytestmark = pytest.mark.workers(1)

TIMES = {"1": [0.01, 0.02, 0.06], "2": [0.005, 0.01, 0.01]}


def size(rows: int, *steps: float, rounds: dict[str, list[float]] = TIMES) -> BatchSize:
    return BatchSize("mlp", "digits", 0.9, rows, 500, [], 0, False, [*steps], rounds=rounds)


@pytest.mark.parametrize(
    ("steps", "median", "arrived"),
    [
        ([30.0, 10.0, 20.0], 20, 3),
        ([30.0, 10.0], 20, 2),
        ([math.inf, 10.0, 20.0], 20, 2),
        ([math.inf, math.inf, 20.0], math.inf, 1),
        ([math.inf, 20.0], math.inf, 1),
        ([], math.inf, 0),
    ],
)
def test_trainings_that_never_arrived_count(steps, median, arrived) -> None:
    found = size(64, *steps)
    assert (found.median, found.arrived) == (median, arrived)
    assert found.to_target("2") == pytest.approx(median * 0.01)


def test_the_fastest_is_the_first_at_the_target_whatever_its_steps() -> None:
    slow = {"1": [0.01], "2": [0.04]}
    sizes = [
        size(8, 200.0, rounds={"1": [0.004], "2": [0.009]}),  # 0.8 s, 1.8 s
        size(64, 50.0, rounds=slow),  # 0.5 s, 2 s
        size(512, 20.0, rounds={"1": [0.05], "2": [0.03]}),  # 1 s, 0.6 s
        size(4096, math.inf, rounds={"1": [0.0001], "2": [0.0001]}),
    ]
    assert fastest(sizes) == (
        "First at the target: 64 rows on 1 worker, in 0.500 s. "
        "The best on 2 workers, 512 rows, takes 1.20 times as long."
    )
    assert fastest([sizes[-1]]) == "No batch size has reached the target in time."
    assert fastest([size(8, 200.0, rounds={})]) == "No batch size has reached the target in time."


FOUND = CriticalBatch(
    *("mlp", "digits", 0.9, 8, 512, 3),
    halves_until=Interval(25.0, 12.0, 50.0),
    pays_until=Interval(400.0, 200.0, 800.0),
    by_steps=Interval(100.0, 50.0, 200.0),
    by_noise=Interval(300.0, 210.0, 400.0),
    by_late_noise=Interval(500.0, 0.0, math.inf),
    fewest_steps=Interval(20.0, 16.0, 25.0),
    fewest_examples=Interval(2000.0, 1600.0, 2500.0),
    misfit=0.1,
)


def test_where_the_two_critical_batch_sizes_disagree() -> None:
    assert FOUND.disagreement == (
        "Over the whole training the noise scale is 3 times the critical batch size of the fit, "
        "and their intervals do not overlap; over its second half it is 5 times."
    )
    wide = replace(FOUND, by_noise=Interval(300.0, 200.0, 400.0))
    assert "and their intervals overlap" in wide.disagreement
    unknown = replace(FOUND, by_steps=Interval(math.nan, 0, math.inf))
    assert unknown.disagreement == "Too few batch sizes reached the target for a fit."
    single = replace(FOUND, by_noise=None, by_late_noise=None)
    assert "gradients of 2 ranks or more" in single.disagreement
