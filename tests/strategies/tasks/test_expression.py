"""What a user gave, as Python text that makes it again, and executors in words."""

import functools
from concurrent.futures import ThreadPoolExecutor

import pytest
from mpi4py import MPI

import nn
from strategies.tasks import Workers
from strategies.tasks.executors import in_words
from strategies.tasks.expression import expression
from tests.strategies.tasks import nets

pytestmark = pytest.mark.workers(1)


@pytest.mark.parametrize(
    "value",
    [
        0.1,
        "text",
        [1, (2, 3)],
        {"a": nets.small, "b": [nn.SGD]},
        nets.small,
        functools.partial(print, functools.partial(nets.small, loss=None), end=""),
    ],
)
def test_the_text_makes_the_value_again(value) -> None:
    names: dict = {}
    text, modules = expression(value)
    exec("\n".join(f"import {module}" for module in modules), names)
    assert repr(eval(text, names)) == repr(value)


def test_executors_in_words() -> None:
    with Workers(1) as workers, ThreadPoolExecutor(1) as threads:
        found = [in_words(each) for each in (None, 2, workers, MPI.COMM_SELF, threads)]
    assert found == ["1 process", "2 workers", "1 workers", "1 ranks", "ThreadPoolExecutor"]
