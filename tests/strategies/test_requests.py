"""Strategies wait for what they send and receive, and leave buffers alone until then."""

import copy
from functools import cache, partial

import numpy as np
import pytest
from torch import nn as tnn

from nn import mlp
from nn.torch import TorchModel
from strategies import Pipeline
from strategies.base import Refused
from tests.support.exact import EXACT
from tests.support.late import Late
from tests.support.optimizers import momentum
from tests.support.oracles import random_batches


def deep():
    """Layers enough for two stages on each of four ranks."""
    return mlp([6, 5, 4, 5, 3, 3], activation="tanh", dtype="float64", seed=1)


@cache
def tried():
    """The first and the last layer have the same weights."""
    net = tnn.Sequential(*(layer for _ in range(4) for layer in (tnn.Linear(5, 5), tnn.Tanh())))
    net[6].weight = net[0].weight
    return TorchModel(net, dtype="float64", seed=1, input_shape=(5,))


def tied():
    return copy.deepcopy(tried())  # to try a module takes long


KINDS = EXACT | {"interleaved": partial(Pipeline, micro_batches=3, schedule="interleaved")}
WITH_REQUESTS = ("DataParallel-2-buckets", "Pipeline", "GPipe", "interleaved")


@pytest.mark.parametrize("build", [deep, tied])
@pytest.mark.parametrize("kind", KINDS)
def test_transfers_may_end_as_late_as_mpi_allows(comm, kind, build):
    Late.unfinished.clear()
    Late.made.clear()
    weights = []
    for each in (comm, Late(comm)):
        try:
            strategy = KINDS[kind](build(), momentum(), each)
        except Refused as refusal:
            pytest.skip(str(refusal))
        for batch in random_batches(build(), 7, steps=2):
            strategy.step(batch)
        weights.append(strategy.weights())
        strategy.close()
    np.testing.assert_array_equal(*weights)
    assert not Late.unfinished
    if comm.size > 1 and kind in WITH_REQUESTS:
        assert Late.made
