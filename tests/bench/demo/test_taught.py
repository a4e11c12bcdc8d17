"""A picture that is added counts from its epoch on, and changes nothing before."""

import numpy as np
import pytest

from bench.demo.taught import COPIES, Lesson, Taught, with_lessons
from nn import data

pytestmark = pytest.mark.workers(1)

IRIS = data.load("iris")
LESSON = Lesson([9.0, 8.0, 7.0, 6.0], 2, 1)


def rows(batches):
    return [(np.array(batch.x), np.array(batch.y)) for batch in batches]


def test_without_lessons_it_is_the_data_set():
    taught = rows(Taught(IRIS, lambda epoch: []).batches(50, 2, seed=3))
    plain = rows(IRIS.batches(50, 2, seed=3))
    assert len(taught) == len(plain)
    for (x, y), (x_plain, y_plain) in zip(taught, plain):
        np.testing.assert_array_equal(x, x_plain)
        np.testing.assert_array_equal(y, y_plain)


def test_a_lesson_counts_from_its_epoch_on():
    taught = Taught(IRIS, lambda epoch: [LESSON] if epoch >= LESSON.epoch else [])
    found = []
    for batch in taught.batches(64, 3):
        found.append((batch.x == LESSON.picture).all(1).sum())
        assert ((batch.x == LESSON.picture).all(1) <= (batch.y == 2)).all()
    before, after = IRIS.steps_per_epoch(64), with_lessons(IRIS, [LESSON]).steps_per_epoch(64)
    assert sum(found[:before]) == 0
    assert sum(found[before : before + after]) == sum(found[before + after :]) == COPIES


def test_it_says_which_batch_is_the_last():
    taught = Taught(IRIS, lambda epoch: [])
    ends = []
    for _ in taught.batches(50, 2):
        ends.append(taught.at_end)
    assert ends == [False] * (len(ends) - 1) + [True]


def test_it_cannot_begin_in_the_middle():
    with pytest.raises(ValueError, match="start=1"):
        next(Taught(IRIS, lambda epoch: []).batches(50, 2, start=1))
