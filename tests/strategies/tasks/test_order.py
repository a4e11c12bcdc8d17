"""A search that replays a record decides as the record says, whatever ends first."""

import pytest

from strategies.tasks.halving import Asha, Job
from strategies.tasks.order import Order
from tests.strategies.tasks.test_halving import accuracy, run

pytestmark = pytest.mark.workers(1)


@pytest.mark.parametrize("backwards", [False, True])
def test_jobs_that_end_in_another_order_count_in_that_of_the_record(backwards: bool) -> None:
    first = Asha(30, epochs=27, eta=3, at_once=5)
    record = run(first, seed=3)
    again, order = Asha(30, epochs=27, eta=3, at_once=5), Order([(j.trial, j.rung) for j in record])
    waiting = again.begin()
    running, ended = set(waiting), []
    while waiting:
        ended.append(waiting.pop(-1 if backwards else 0))
        while job := order.next(ended, running):
            running.remove(job)
            ended.remove(job)
            new = again.ended(job, accuracy(job))
            running |= set(new)
            waiting += new
    assert not running
    assert list(again.accuracies) == order.ended == record
    assert again.accuracies == first.accuracies


def test_without_a_record_jobs_count_as_they_end() -> None:
    order, jobs = Order(), [Job(2, 0), Job(0, 0)]
    assert order.next([], {Job(1, 0)}) is None
    assert order.next(jobs, {*jobs, Job(1, 0)}) == Job(2, 0)


def test_after_the_record_jobs_count_as_they_end() -> None:
    order, jobs = Order([(0, 0)]), [Job(2, 0), Job(0, 0)]
    assert order.next(jobs, set(jobs)) == Job(0, 0)
    assert order.next(jobs[:1], {jobs[0]}) == Job(2, 0)


def test_a_record_of_jobs_that_have_not_begun_is_refused() -> None:
    with pytest.raises(ValueError, match="trial 1 ended rung 1 here, which it has not begun"):
        Order([(1, 1)]).next([Job(1, 0)], {Job(1, 0)})
