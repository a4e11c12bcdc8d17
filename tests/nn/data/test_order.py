"""An epoch has every row once, in an order that is the same for all ranks and can be resumed."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from nn import Batch
from tests.nn.data.samples import numbered

pytestmark = pytest.mark.workers(1)  # nothing here depends on the number of ranks


def order(batches: list[Batch]) -> list[int]:
    return [int(row) for batch in batches for row in batch.y]


@pytest.mark.parametrize("batch_size", [1, 7, 10, 23, 40])
def test_an_epoch_covers_every_row_once(batch_size: int) -> None:
    dataset = numbered(23)
    batches = list(dataset.batches(batch_size))
    assert sorted(order(batches)) == list(range(23))
    assert len(batches) == dataset.steps_per_epoch(batch_size)
    assert [batch.global_count for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)


def test_x_and_y_go_together() -> None:
    for batch in numbered(23).batches(5):
        x, y = batch.part(1, 2)
        np.testing.assert_array_equal(x[:, 0], y)


def test_epochs_are_shuffled_differently_and_repeatably() -> None:
    dataset = numbered(50)
    first, second = np.split(np.array(order(list(dataset.batches(8, epochs=2)))), 2)
    assert list(first) != list(second)
    assert list(first) != list(range(50))
    assert sorted(second) == list(range(50))
    assert order(list(dataset.batches(8))) == list(first)
    assert order(list(dataset.batches(8, seed=1))) != list(first)


def test_the_order_does_not_depend_on_the_batch_size() -> None:
    dataset = numbered(30)
    assert order(list(dataset.batches(4))) == order(list(dataset.batches(30)))


@pytest.mark.parametrize("start", [0, 1, 5, 6, 7, 11, 17, 18, 40])
def test_a_run_resumes_anywhere(start: int) -> None:
    dataset = numbered(23)  # 6 batches an epoch
    whole = [list(batch.y) for batch in dataset.batches(4, epochs=3, seed=5)]
    rest = [list(batch.y) for batch in dataset.batches(4, epochs=3, seed=5, start=start)]
    assert rest == whole[start:]


class Unreadable(np.ndarray):
    def __getitem__(self, key: Any) -> Any:
        raise AssertionError("a row was read")


def test_skipped_batches_are_not_read() -> None:
    plain = numbered(23)
    dataset = dataclasses.replace(plain, x=plain.x.view(Unreadable))
    list(dataset.batches(4, start=3))
    with pytest.raises(AssertionError, match="was read"):
        next(dataset.batches(4, start=3)).part(0, 1)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"batch_size": 0}, ValueError),
        ({"batch_size": -1}, ValueError),
        ({"batch_size": 2.0}, TypeError),
        ({"batch_size": True}, TypeError),
        ({"batch_size": None}, TypeError),
        ({"epochs": -1}, ValueError),
        ({"epochs": 1.5}, TypeError),
        ({"seed": -1}, ValueError),
        ({"start": -1}, ValueError),
        ({"start": "0"}, TypeError),
    ],
)
def test_wrong_arguments_are_named_at_once(arguments: dict, error: type[Exception]) -> None:
    with pytest.raises(error, match=rf"{next(iter(arguments))}=.*expected"):
        numbered(5).batches(**{"batch_size": 2, **arguments})  # without asking for a batch


def test_no_epochs_no_batches() -> None:
    assert list(numbered(5).batches(2, epochs=0)) == []
