"""Our nets as estimators: scikit-learn trains what we train."""

from functools import partial

import numpy as np
import pytest
from sklearn.base import clone

import nn
from bench.peers.net_classifier import NetClassifier
from nn import SGD
from nn.data import load
from strategies import Sequential, train

pytestmark = pytest.mark.workers(1)


def wide(seed: int, width: int) -> nn.Model:
    return nn.mlp([4, width, 3], seed=seed)


def test_it_trains_as_sequential_does() -> None:
    iris = load("iris")
    net = NetClassifier(wide, partial(SGD, momentum=0.9), 16, 3, lr=0.05, width=7, seed=2)
    assert clone(net).fit(iris.x, iris.y).score(iris.x_test, iris.y_test) > 0.5
    net.fit(iris.x, iris.y)
    model = wide(2, 7)
    train(Sequential(model, SGD(0.05, momentum=0.9)), iris, batch_size=16, epochs=3, seed=2)
    np.testing.assert_array_equal(net.net_.params, model.params)
    np.testing.assert_array_equal(net.predict(iris.x_test), model.predict(iris.x_test))
    assert net.classes_.tolist() == [0, 1, 2]


def test_an_optimizer_may_have_its_rate_already() -> None:
    iris = load("iris")
    one = NetClassifier(partial(wide, width=7), partial(SGD, 0.05), 16, 3).fit(iris.x, iris.y)
    other = NetClassifier(wide, SGD, 16, 3, lr=0.05, width=7).fit(iris.x, iris.y)
    np.testing.assert_array_equal(one.net_.params, other.net_.params)
