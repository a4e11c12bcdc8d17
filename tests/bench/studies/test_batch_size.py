"""The study of batch sizes counts steps of seeds that tuning has not seen, on test rows."""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from bench.report.batch_sizes import BatchSize, Tried
from bench.studies.batch_size import count_steps, number, sizes_of, summary
from bench.studies.regimes import Curve
from bench.studies.step_times import contender, race_steps
from bench.studies.steps_to_target import accuracy_of, steps_to_target
from nn import SGD, mlp
from strategies import Sequential
from strategies.catalog import Entry, added
from tests.bench.studies.planted import BUILD, dataset
from tests.bench.studies.test_options import chosen
from tests.examples.mean_of_means import MeanOfMeans

LR, MOMENTUM, ROWS = 0.004, 0.3, 15


def tuned(target: float = 0.9, **changed) -> BatchSize:
    """A batch size whose second point needed the fewest steps."""
    tried = [Tried(9.0, 0.9, math.inf, 400), Tried(LR, MOMENTUM, 1.0, 400)]
    return replace(BatchSize("mlp", "planted", target, ROWS, 400, tried, 1, False), **changed)


def plain_steps(seed: int, target: float) -> float:
    data = dataset()
    return steps_to_target(
        Sequential(BUILD(seed=seed), SGD(LR, momentum=MOMENTUM)),
        data,
        accuracy_of(BUILD, data.x_test, data.y_test),
        batch_size=ROWS,
        target=target,
        allowed=400,
        seed=seed,
    )


@pytest.mark.workers(2)
def test_steps_are_those_of_other_seeds_than_the_tuned_one(comm) -> None:
    expected = [plain_steps(seed, 0.9) for seed in (0, 1, 2, 3)]  # 144, 96, 48, 80 steps
    assert len({*expected}) == 4
    found = count_steps(comm, BUILD, dataset(), tuned(), seeds=3)
    assert found.steps == expected[1:]
    assert len(found.noise) == len(found.noise_late) == 3
    assert all(scale > 0 for scale in found.noise)
    assert len({*comm.allgather((*found.steps, *found.noise))}) == 1


@pytest.mark.workers(1)
def test_a_target_that_only_the_tuned_training_reached_is_not_reached(comm) -> None:
    steps = [plain_steps(seed, 0.9) for seed in (1, 2, 3)]
    soonest, *_, latest = sorted(steps)
    found = count_steps(comm, BUILD, dataset(), tuned(budget=int(soonest) - 1), seeds=3)
    assert (found.steps, found.arrived, found.median) == ([math.inf] * 3, 0, math.inf)
    found = count_steps(comm, BUILD, dataset(), tuned(budget=int(latest) - 1), seeds=3)
    assert found.steps == [each if each < latest else math.inf for each in steps]
    assert found.noise == []  # a single rank has gradients over one batch size


@pytest.mark.workers(1)
def test_a_batch_size_that_no_point_brought_to_the_target_never_arrives(comm) -> None:
    found = count_steps(comm, BUILD, dataset(), tuned(best=None), seeds=2)
    assert found.steps == [math.inf] * 2
    assert (found.arrived, found.noise) == (0, [])


@pytest.mark.workers(1)
def test_planted_regimes_and_noise_scales_are_in_the_summary() -> None:
    sizes, criticals = [8, 32, 128, 512, 2048, 4096], [80.0, 100.0, 125.0]
    found = [
        BatchSize(
            *("mlp", "digits", 0.9, size, 500, [], 0, False),
            steps=[float(Curve(20, critical).steps(size)) for critical in criticals],
            noise=[5.0 * critical for critical in criticals] if size != 8 else [1.0] * 3,
            noise_late=[10.0 * critical for critical in criticals],
        )
        for size in sizes
    ]
    one = summary(found)
    assert (one.smallest, one.largest, one.seeds) == (8, 4096, 3)
    assert one.by_steps.value == pytest.approx(100, rel=1e-3)
    assert one.by_steps.low < 80 < 125 < one.by_steps.high
    assert one.halves_until.value == pytest.approx(25, rel=0.01)
    assert one.pays_until.value == pytest.approx(400, rel=0.01)
    assert one.fewest_steps.value == pytest.approx(20, rel=1e-3)
    assert one.fewest_examples.value == pytest.approx(2_000, rel=1e-3)
    assert one.by_noise is not None
    assert one.by_late_noise is not None
    assert one.by_noise.value == pytest.approx(500)  # the median over the batch sizes
    assert one.by_late_noise.value == pytest.approx(1_000)
    assert one.misfit < 1e-3


@pytest.mark.workers(1)
def test_a_seed_that_never_arrived_and_a_batch_size_without_noise_are_left_out() -> None:
    sizes = [8, 32, 128, 512, 2048]
    found = [
        BatchSize(
            *("mlp", "digits", 0.9, size, 500, [], 0, False),
            steps=[float(Curve(20, 100).steps(size)), math.inf],
            noise=[] if size == 8 else [70.0, 90.0],
        )
        for size in sizes
    ]
    one = summary(found)
    assert one.by_steps.value == pytest.approx(100, rel=1e-3)
    assert (one.by_steps.low, one.by_steps.high) == (0, math.inf)  # of a single seed
    assert one.by_noise is not None
    assert one.by_noise.value == pytest.approx(math.sqrt(70 * 90))


@pytest.mark.workers(1)
def test_batch_sizes_are_those_that_were_chosen_or_the_usual_that_fit() -> None:
    assert sizes_of(chosen("--batch-sizes", "64,8,64"), 100, (8,)) == [8, 64]
    assert sizes_of(chosen(), 100, (8, 100, 128)) == [8, 100]
    for wrong in ("8,101", "0", "8,", "8;16", "-8", "1.5"):
        with pytest.raises(ValueError, match="expected whole numbers from 1 to 100") as caught:
            sizes_of(chosen(f"--batch-sizes={wrong}"), 100, (8,))
        assert wrong in str(caught.value)


@pytest.mark.workers(1)
def test_a_number_that_is_given_is_never_replaced() -> None:
    assert (number("seeds", None, 3), number("seeds", 5, 3)) == (3, 5)
    with pytest.raises(ValueError, match="--seeds"):
        number("seeds", 0, 3)


@pytest.mark.workers(2)
def test_steps_of_all_sizes_and_workers_are_timed_in_the_same_rounds(comm) -> None:
    build = partial(mlp, [5, 64, 3])
    rounds, state = race_steps(
        comm, build, dataset(), [4, 90], [1, 2], "SharedDataParallel", rounds=(2, 2), seconds=1
    )
    names = {contender(size, count) for size in (4, 90) for count in (1, 2)}
    assert rounds.seconds.keys() == names
    times = np.array([*rounds.per_step.values()])
    assert times.shape == (4, 2)
    assert (times > 0).all()
    assert len({*comm.allgather(times.tobytes())}) == 1
    assert len(state["background_load"]) == 2


@pytest.mark.workers(2)
def test_a_strategy_that_trains_wrong_is_not_timed(comm) -> None:
    build = partial(mlp, [5, 8, 3])
    with (
        added(Entry("Wrong", MeanOfMeans)),
        pytest.raises(AssertionError, match="Wrong on 2 workers: after 3 steps the weights differ"),
    ):
        race_steps(comm, build, dataset(), [4], [1, 2], "Wrong", rounds=(2, 2), seconds=1)
