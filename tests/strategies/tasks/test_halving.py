"""Rules of search promote the trials that the papers say, whatever runs them."""

import math
import random

import pytest

from strategies.tasks.halving import All, Asha, Halving, Job, best_first, rungs, winner

pytestmark = pytest.mark.workers(1)


def accuracy(job: Job) -> float:
    """Made up, and different at every rung: who leads early does not always lead later."""
    return random.Random(f"{job.trial} {job.rung}").random()


def run(rule, accuracy=accuracy, seed: int | None = None) -> list[Job]:
    """Run all jobs, in the order in which they may begin, or shuffled; return how they ended."""
    waiting, ended = rule.begin(), []
    order = random.Random(seed)
    while waiting:
        at = 0 if seed is None else order.randrange(len(waiting))
        job = waiting.pop(at)
        ended.append(job)
        waiting += rule.ended(job, accuracy(job))
    return ended


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((27, 3, 1), [1, 3, 9, 27]),
        ((10, 3, 1), [1, 3, 10]),
        ((9, 3, 2), [3, 9]),
        ((8, 2, 2), [2, 4, 8]),
        ((1, 2, 1), [1]),
    ],
)
def test_rungs_end_in_all_epochs(arguments, expected) -> None:
    assert rungs(*arguments) == expected


@pytest.mark.parametrize("arguments", [(9, 1, 1), (9, 3, 0), (2, 3, 3), (0, 2, 1)])
def test_rungs_that_are_none_are_refused(arguments) -> None:
    with pytest.raises(ValueError, match="expected"):
        rungs(*arguments)


def test_the_best_are_first_and_those_that_failed_last() -> None:
    found = {Job(0, 0): 0.5, Job(1, 0): math.nan, Job(2, 0): 0.7, Job(3, 0): 0.5, Job(4, 1): 0.9}
    assert best_first(found, 0) == [2, 0, 3, 1]
    assert winner(found) == Job(4, 1)
    assert winner({Job(0, 0): math.nan}) is None
    assert winner({Job(0, 0): 0.1, Job(1, 0): 0.2, Job(1, 1): math.nan}) == Job(1, 0)


def by_hand(trials: int, eta: int, levels: int, accuracy) -> list[set[int]]:
    """The trials in each rung of successive halving, as figure 3 of the paper has it."""
    in_rung = [set(range(trials))]
    for rung in range(levels - 1):
        ranked = sorted(in_rung[-1], key=lambda trial: -accuracy(Job(trial, rung)))
        in_rung.append(set(ranked[: max(1, len(ranked) // eta)]))
    return in_rung


@pytest.mark.parametrize(("trials", "eta"), [(27, 3), (20, 3), (16, 2), (5, 4), (1, 2)])
@pytest.mark.parametrize("seed", [None, 0, 1])
def test_halving_promotes_as_the_paper_does_in_any_order(trials, eta, seed) -> None:
    rule = Halving(trials, epochs=27, eta=eta)
    ended = run(rule, seed=seed)
    levels = len(rule.epochs)
    expected = by_hand(trials, eta, levels, accuracy)
    assert [{job.trial for job in ended if job.rung == r} for r in range(levels)] == expected
    assert len(ended) == len(set(ended))
    best = winner(rule.accuracies)
    assert best is not None
    assert best.rung == levels - 1


def test_halving_leaves_out_trials_that_failed() -> None:
    def failing(job: Job) -> float:
        return math.nan if job.trial % 3 else accuracy(job)

    ended = run(Halving(9, epochs=9), failing)
    assert {job.trial for job in ended if job.rung} <= {0, 3, 6}
    assert run(Halving(2, epochs=9), lambda job: math.nan) == [Job(0, 0), Job(1, 0)]


def asha_by_hand(order: list[Job], trials: int, eta: int, levels: int, at_once: int) -> list[Job]:
    """The jobs that algorithm 2 begins if jobs end in this order, written anew from the paper."""
    begun: list[Job] = []
    ended: list[Job] = []

    def get_job() -> Job | None:
        for rung in range(levels - 2, -1, -1):
            here = [job for job in ended if job.rung == rung]
            here.sort(key=lambda job: (-accuracy(job), job.trial))
            candidates = here[: int(len(here) / eta)]
            promotable = [job for job in candidates if Job(job.trial, rung + 1) not in begun]
            if promotable:
                return Job(promotable[0].trial, rung + 1)
        drawn = len([job for job in begun if job.rung == 0])
        return Job(drawn, 0) if drawn < trials else None

    for job in [None, *order]:
        if job is not None:
            ended.append(job)
        while len(begun) - len(ended) < at_once and (new := get_job()) is not None:
            begun.append(new)
    return begun


@pytest.mark.parametrize("at_once", [1, 2, 5])
@pytest.mark.parametrize("seed", range(4))
def test_asha_decides_as_algorithm_2_whatever_the_order(at_once, seed) -> None:
    rule, begun = Asha(30, epochs=27, eta=3, at_once=at_once), []
    plain_begin, plain_ended = rule.begin, rule.ended

    def noted(jobs: list[Job]) -> list[Job]:
        begun.extend(jobs)
        return jobs

    rule.begin = lambda: noted(plain_begin())  # type: ignore[method-assign]
    rule.ended = lambda *args: noted(plain_ended(*args))  # type: ignore[method-assign]
    ended = run(rule, seed=seed)
    assert list(rule.accuracies) == ended
    assert begun == asha_by_hand(ended, 30, 3, 4, at_once)
    assert len(begun) == len(ended)
    assert {job.trial for job in ended if job.rung == 0} == set(range(30))
    assert any(job.rung == 2 for job in ended)


def test_a_replay_of_the_order_takes_the_same_decisions() -> None:
    first = Asha(30, epochs=27, eta=3, at_once=4)
    order = run(first, seed=7)
    again = Asha(30, epochs=27, eta=3, at_once=4)
    running = set(again.begin())
    for job in order:
        running.remove(job)  # it has been begun
        running |= set(again.ended(job, accuracy(job)))
    assert not running
    assert again.accuracies == first.accuracies


def test_asha_depends_on_the_order() -> None:
    runs = [set(run(Asha(30, epochs=27, eta=3, at_once=5), seed=seed)) for seed in range(6)]
    assert any(each != runs[0] for each in runs)


def test_no_more_jobs_run_at_once_than_may() -> None:
    rule = Asha(20, epochs=9, at_once=3)
    running = set(rule.begin())
    while running:
        assert len(running) <= 3
        job = running.pop()
        running |= set(rule.ended(job, accuracy(job)))


def test_asha_promotes_no_trial_that_failed() -> None:
    ended = run(Asha(9, epochs=9), lambda job: math.nan)
    assert {job.rung for job in ended} == {0}
    assert len(ended) == 9


def test_a_search_of_all_trials_trains_each_once() -> None:
    assert run(All(4)) == [Job(trial, 0) for trial in range(4)]
