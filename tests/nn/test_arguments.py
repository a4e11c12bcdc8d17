"""Arguments may be numpy's numbers; anything but a number is refused."""

import numpy as np
import pytest

from nn import SGD, cnn, mlp
from nn.arguments import as_float, as_int


@pytest.mark.parametrize("kind", [np.int8, np.int64, np.uint16])
def test_numpy_whole_numbers_are_whole(kind):
    assert type(as_int("n", kind(3), 1)) is int
    assert mlp(np.array([3, 4, 2], kind)).offsets == mlp([3, 4, 2]).offsets
    assert cnn(kind(3), (1, 10, 10)).offsets == cnn(3, (1, 10, 10)).offsets


@pytest.mark.parametrize("value", [0.5, np.float32(0.5), np.float64(0.5)])
def test_numpy_numbers_are_numbers(value):
    found = as_float("x", value, 0.0, 1.0)
    assert found == 0.5
    assert type(found) is float
    assert SGD(value).lr == 0.5


@pytest.mark.parametrize("value", [True, np.True_, "1", None, 1j])
def test_others_are_not(value):
    for check in (as_int, as_float):
        with pytest.raises(TypeError, match="expected a"):
            check("x", value, 0)


def test_a_truth_value_is_no_size():
    with pytest.raises(ValueError, match="whole numbers"):
        mlp([3, True, 2])
