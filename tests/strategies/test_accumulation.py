"""Rows that are computed in parts give the gradient of the whole batch, in the memory of a part."""

from collections import Counter
from functools import partial
from typing import ClassVar

import numpy as np
import pytest
import torch

from bench.core.metering import Metered
from nn import SGD, Model, mlp
from nn.layers import Tanh
from nn.loss import CrossEntropy
from nn.lr_schedules import cosine
from nn.torch import TorchModel
from strategies import (
    CompressedDataParallel,
    DataParallel,
    LocalSGD,
    Sequential,
    SharedDataParallel,
    TopK,
    ZeRO,
    costs,
)
from strategies.base import Refused
from tests.support.optimizers import momentum
from tests.support.oracles import assert_trains_like, random_batches
from tests.support.small_nets import NETS, small_mlp

MAKERS = {
    "Sequential": Sequential,
    "DataParallel": DataParallel,
    "buckets": partial(DataParallel, buckets=3),
    "SharedDataParallel": SharedDataParallel,
    "ZeRO-1": ZeRO,
    "ZeRO-2": partial(ZeRO, stage=2),
    "ZeRO-3": partial(ZeRO, stage=3),
    "TopK": partial(CompressedDataParallel, compression=TopK(10**6)),
    "LocalSGD": LocalSGD,
}
every_strategy = pytest.mark.parametrize("name", MAKERS)
every_number_of_parts = pytest.mark.parametrize("parts", [2, 3, 9])


def train(comm, name, parts, build, make=momentum, sizes=(8, 7, 1)):
    """Compare three steps in parts, some of which are empty, with plain training."""
    strategy = MAKERS[name](build(), make(), comm, accumulate=parts)
    batches = [batch for n in sizes for batch in random_batches(build(), n, steps=1, seed=n)]
    oracle = Sequential(build(), make())
    assert_trains_like(oracle, strategy, batches, comm, own_loss=name == "LocalSGD")
    strategy.close()


@every_strategy
@every_number_of_parts
def test_equals_the_whole_batch(comm, name, parts):
    train(comm, name, parts, small_mlp)


@pytest.mark.workers(2, 3)
@every_strategy
@pytest.mark.parametrize("net", ["cnn", "strangers", "words", "residual"])
def test_equals_the_whole_batch_on_other_nets(comm, name, net):
    train(comm, name, 3, NETS[net])


@every_strategy
def test_schedule_counts_steps_not_parts(comm, name):
    def make():
        return SGD(cosine(0.5, 4), momentum=0.9)

    train(comm, name, 3, small_mlp, make)


@pytest.mark.workers(1, 2, 3)
@every_strategy
def test_dropout_draws_the_masks_of_the_whole_batch(comm, name):
    def build():
        layers = [torch.nn.Linear(6, 9), torch.nn.Dropout(0.5), torch.nn.Tanh()]
        return TorchModel([*layers, torch.nn.Linear(9, 4), torch.nn.Tanh()], dtype="float64")

    if name == "buckets":
        pytest.skip("the net has two layers with parameters")
    train(comm, name, 3, build)


@every_strategy
def test_labels_that_do_not_count(comm, name):
    """The parts divide by what counts in the whole batch, also those in which nothing counts."""

    def build():
        return mlp([6, 7, 5, 4], dtype="float64", loss=CrossEntropy(ignore_index=0))

    train(comm, name, 3, build, sizes=(9, 8))


class Watched(Tanh):
    """Notes how many rows it is given, and how many contexts of it are kept at once."""

    rows: ClassVar[Counter[int]] = Counter()
    kept = most = 0

    def forward(self, x):
        Watched.rows[len(x)] += 1
        Watched.kept += len(x)
        Watched.most = max(Watched.most, Watched.kept)
        return super().forward(x)

    def backward(self, dy, ctx, need_dx=True, add=False):
        Watched.kept -= len(dy)
        return super().backward(dy, ctx, need_dx, add)


@pytest.mark.workers(1, 2)
@every_strategy
def test_keeps_the_activations_of_one_part(comm, name):
    Watched.rows, Watched.most, Watched.kept = Counter(), 0, 0
    model = small_mlp()
    model = Model([*model.layers, Watched()], "float64", params=model.params)
    strategy = MAKERS[name](model, momentum(), comm, accumulate=4)
    (batch,) = random_batches(model, 16, steps=1)
    strategy.step(batch)
    part = 4 if name == "Sequential" else 4 // comm.size
    assert Watched.rows == {part: 4}
    assert Watched.most == part
    strategy.close()


@pytest.mark.workers(1)
def test_one_part_is_the_whole_batch_to_the_bit(comm):
    oracle = Sequential(small_mlp(), momentum())
    strategy = DataParallel(small_mlp(), momentum(), comm, accumulate=1)
    assert_trains_like(oracle, strategy, random_batches(small_mlp(), 7), comm, tolerance=0)


@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize("net", ["one_layer", "two", "lenet"])
def test_zero_sends_what_its_formula_says(comm, net, stage):
    metered = Metered(comm)
    strategy = ZeRO(NETS[net](), SGD(0.1), metered, stage, accumulate=3)
    metered.record.clear()
    strategy.step(*random_batches(NETS[net](), 7, steps=1))
    found = Counter(metered.record.sent)
    # The first step also compares the batches, which is no part of the formulas.
    found = Counter({verb: size for verb, size in found.items() if verb != "allgather"})
    assert found == costs.sent_by_zero(NETS[net](), comm.size, comm.rank, stage, accumulate=3)


@pytest.mark.workers(1)
@pytest.mark.parametrize("name", ["Sequential", "DataParallel", "ZeRO-2", "LocalSGD"])
def test_refuses(comm, name):
    make = MAKERS[name]
    with pytest.raises(ValueError, match="accumulate=0: expected 1 or more"):
        make(small_mlp(), momentum(), comm, accumulate=0)
    for wrong in (True, 2.0, "2"):
        with pytest.raises(TypeError, match=r"accumulate=.*expected a whole number"):
            make(small_mlp(), momentum(), comm, accumulate=wrong)
    layers = [torch.nn.Linear(6, 5), torch.nn.BatchNorm1d(5), torch.nn.Linear(5, 4)]
    model = TorchModel(layers, dtype="float64", sync_batch_norm=comm)
    with pytest.raises(Refused, match=r"sync_batch_norm"):
        make(model, momentum(), comm, accumulate=np.int64(2))
