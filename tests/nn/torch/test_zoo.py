"""The torch nets are the published ones; every exact strategy trains them as Sequential does.

Every strategy trains every net in its published form on 1 to 4 ranks. On 2 ranks it also trains
the first three nets with group norm, and three nets with batch norm. The oracle of batch norm is
one process that normalises each shard or micro-batch by itself; the oracle of synchronised batch
norm, for the strategies that take it, is one process that normalises the whole batch.
"""

from copy import copy
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
import torch

import nn
from nn import SGD, Batch
from nn.sequences import Sequences
from nn.torch.model import TorchModel
from nn.torch.zoo import NETS, NORMS, build
from strategies import Hybrid, Pipeline, Sequential
from tests.support.exact import DATA_PARALLEL, EXACT, OF_OWN_LOSS
from tests.support.optimizers import momentum
from tests.support.oracles import MatchedOrder, Recorded, assert_trains_like, random_batches
from tests.support.small_nets import Reused

IMAGES = (3, 32, 32)
SMALL: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "mlp": (dict(sizes=(5, 9, 6, 3)), (5,)),
    "cnn": (dict(input_shape=(1, 10, 10), width=3, classes=3), (1, 10, 10)),
    "lenet": (dict(input_shape=(1, 12, 12), classes=3), (1, 12, 12)),
    "vgg11": (dict(width=2, classes=3), IMAGES),
    "vgg16": (dict(width=2, classes=3), IMAGES),
    "mobilenet": (dict(width=2, input_shape=(3, 12, 12), classes=3), (3, 12, 12)),
    "resnet18": (dict(width=2, input_shape=(3, 8, 8), classes=3), (3, 8, 8)),
    "resnet20": (dict(width=4, input_shape=(3, 8, 8), classes=3), (3, 8, 8)),
    "gpt2": (dict(layers=3, heads=2, width=8, vocabulary=11, context=5), (5,)),
}
"""For each net: arguments of its smallest meaningful size, and the shape of a row."""


def model(name: str, norm: str | None = None, sync: Any = None) -> TorchModel:
    arguments, shape = SMALL[name]
    net = partial(build, name, norm, **arguments)
    return TorchModel(net, dtype="float64", seed=1, input_shape=shape, sync_batch_norm=sync)


@cache
def reused(name: str, norm: str | None) -> Reused:
    return Reused(model(name, norm))


@cache
def batch(name: str, rows: int = 5) -> Batch:
    """A batch of 5 rows, which make uneven shards."""
    rng = np.random.default_rng(0)
    if name == "gpt2":
        return Sequences(rng.integers(0, 11, (rows, 6)))
    return Batch(rng.standard_normal((rows, *SMALL[name][1])), rng.integers(0, 3, rows))


def cuts(model: TorchModel, stages: int) -> list[int]:
    """Cuts by number of layers, because measuring the cost of each takes long in deep nets."""
    return [len(model.layers) * stage // stages for stage in range(1, stages)]


def pipeline(model, optimizer, comm, schedule):
    chunks = min(2, len(model.layers) // comm.size) if schedule == "interleaved" else 1
    stages = cuts(model, comm.size * chunks)
    return Pipeline(model, optimizer, comm, 2, schedule, stages, chunks)


def grid(model, optimizer, comm):
    data, stages, tensor = {1: (1, 1, 1), 2: (1, 1, 2), 3: (1, 3, 1), 4: (2, 2, 1)}[comm.size]
    return Hybrid(model, optimizer, comm, data, stages, tensor, cuts=cuts(model, stages))


def tensor_grid(model, optimizer, comm):
    return Hybrid(model, optimizer, comm, tensor=comm.size, micro_batches=2, cuts=[])


THROUGH_LAYERS = {
    "Pipeline": partial(pipeline, schedule="1f1b"),
    "GPipe": partial(pipeline, schedule="gpipe"),
    "Pipeline-naive": partial(pipeline, schedule="naive"),
    "Pipeline-interleaved": partial(pipeline, schedule="interleaved"),
    "Hybrid": grid,
    "Hybrid-tensor": tensor_grid,
}
STRATEGIES = EXACT | OF_OWN_LOSS | THROUGH_LAYERS

NORMED = [name for name in NETS if name != "gpt2"]
WITH_BATCH_NORM = ("cnn", "mobilenet", "resnet20")
"""One net of each kind; the others are built of the same parts."""
ALONE = ("TensorParallel", "Hybrid", "ParameterServer")
"""Strategies in which a step on two ranks computes the whole batch at once, and not by parts."""


@cache
def trained(name: str, norm: str | None, parts: int) -> Recorded:
    """A recorded step in one process."""
    return Recorded(MatchedOrder(model(name, norm), SGD(0.1), parts), [batch(name)])


def assert_one_step(name, strategy, comm, norm=None, parts=1, sync=None):
    """Compare one step from one state, because rounding grows from step to step in deep nets."""
    net = model(name, norm, sync) if sync else reused(name, norm)()
    parallel = STRATEGIES[strategy](net, SGD(0.1), comm)
    oracle, own_loss = copy(trained(name, norm, parts)), strategy in OF_OWN_LOSS
    assert_trains_like(oracle, parallel, oracle.batches, comm, own_loss=own_loss)
    parallel.close()


@pytest.mark.workers(2, 3)
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", NETS)
def test_every_strategy_trains_every_net(comm, name, strategy):
    assert_one_step(name, strategy, comm)


@pytest.mark.workers(2)
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", ["mlp", "cnn", "lenet"])
def test_every_strategy_trains_nets_with_group_norm(comm, name, strategy):
    assert_one_step(name, strategy, comm, "group")


@pytest.mark.workers(2)
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", WITH_BATCH_NORM)
def test_every_strategy_trains_nets_with_batch_norm(comm, name, strategy):
    assert_one_step(name, strategy, comm, "batch", parts=1 if strategy in ALONE else 2)


@pytest.mark.workers(2)
@pytest.mark.parametrize("strategy", DATA_PARALLEL)
@pytest.mark.parametrize("name", WITH_BATCH_NORM)
def test_synchronised_batch_norm(comm, name, strategy):
    assert_one_step(name, strategy, comm, "batch", sync=comm)


@pytest.fixture
def meta():
    """Let modules be built without memory for their parameters."""
    with torch.device("meta"):
        yield


def count(net: torch.nn.Module) -> int:
    return sum(weight.numel() for weight in net.parameters())


@pytest.mark.workers(1)
@pytest.mark.parametrize(
    ("name", "norm", "published"),
    [
        ("mlp", None, 4 * 50 + 50 + 50 * 3 + 3),
        ("lenet", None, 61_706),  # of its usual modern form, all maps connected
        # Convolutions as published (Simonyan and Zisserman, table 1), and a Linear of 512 inputs.
        ("vgg11", "none", 9_220_480 + 5_130),
        ("vgg16", "none", 14_714_688 + 5_130),
        # 4.2M (Howard et al., table 8), of which a Linear of 1024 inputs, 1000 outputs.
        ("mobilenet", "batch", 4_231_976 - 1_025_000 + 10_250),
        ("resnet18", "batch", 11_173_962),  # 11.7M less the stem of 7x7 and 990 outputs
        ("resnet20", "batch", 269_722),  # 0.27M (He et al., table 6)
        ("resnet20", "group", 269_722),
        ("gpt2", None, 124_439_808 + 50_257 * 768),  # the output has weights of its own
    ],
)
def test_nets_have_the_published_number_of_parameters(meta, name, norm, published):
    assert count(build(name, norm)) == published


@pytest.mark.workers(1)
@pytest.mark.parametrize(
    ("name", "size"),
    [("vgg11", 1), ("vgg16", 1), ("mobilenet", 2), ("resnet18", 4), ("resnet20", 8)],
)
def test_images_are_halved_as_often_as_published(name, size):
    """The size is compared before the average over the pixels that are left of 32x32."""
    net = build(name, width=2)
    assert net[:-3](torch.zeros(1, *IMAGES)).shape[2:] == (size, size)


@pytest.mark.workers(1)
@pytest.mark.parametrize("name", ["vgg11", "vgg16"])
def test_vgg_takes_images_of_28x28_and_leaves_odd_sizes_of_larger_ones_as_published(name):
    for side in (28, 63):
        net = build(name, width=2, input_shape=(1, side, side))
        assert net[:-3](torch.zeros(1, 1, side, side)).shape[2:] == (1, 1)


KINDS = {
    "group": torch.nn.GroupNorm,
    "batch": (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d),
    "none": (),
}


@pytest.mark.workers(1)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", NORMED)
def test_every_net_with_every_norm(name, norm):
    net = build(name, norm, **SMALL[name][0])
    norms = [m for m in net.modules() if isinstance(m, (*KINDS["batch"], KINDS["group"]))]
    assert all(isinstance(m, KINDS[norm]) for m in norms)
    convolutions = [m for m in net.modules() if isinstance(m, torch.nn.Conv2d)]
    hidden = len(SMALL[name][0].get("sizes", (0, 0))) - 2
    assert len(norms) == (0 if norm == "none" else len(convolutions) + hidden)
    assert all((m.bias is None) == (norm != "none") for m in convolutions)
    logits = net(torch.randn(4, *SMALL[name][1], generator=torch.Generator().manual_seed(0)))
    assert logits.shape == (4, 3)
    torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 0])).backward()
    assert all(weight.grad is not None for weight in net.parameters())  # each has a part in it


@pytest.mark.workers(1)
def test_groups_divide_the_channels_whatever_their_number():
    net = build("mlp", "group", sizes=[3, 50, 7, 24, 2])
    groups = [m.num_groups for m in net if isinstance(m, torch.nn.GroupNorm)]
    assert groups == [2, 1, 8]


@pytest.mark.workers(1)
@pytest.mark.parametrize(
    ("name", "arguments", "shape"),
    [
        ("mlp", dict(sizes=[6, 7, 5, 4]), (6,)),
        ("mlp", dict(sizes=[6, 5, 4], activation="tanh"), (6,)),
        ("cnn", dict(classes=3, input_shape=(1, 10, 12)), (1, 10, 12)),
        ("cnn", dict(classes=3, input_shape=(1, 4, 7), padding=1), (1, 4, 7)),
        ("lenet", dict(classes=3, input_shape=(2, 14, 12)), (2, 14, 12)),
    ],
    ids=["mlp", "tanh", "cnn", "padded cnn", "lenet"],
)
def test_nets_of_numpy_and_torch_train_to_the_same_weights(comm, name, arguments, shape):
    ours = getattr(nn, name)(**arguments, dtype="float64", seed=3)
    theirs = TorchModel(build(name, **arguments), dtype="float64", seed=3, input_shape=shape)
    batches = random_batches(ours, 9, steps=4) * 5
    oracle = Sequential(ours, momentum())
    assert_trains_like(oracle, Sequential(theirs, momentum()), batches, comm, tolerance=1e-10)


@pytest.mark.workers(1)
def test_shortcuts_without_parameters_take_every_second_pixel_and_add_empty_channels():
    block = build("resnet20", width=2)[6]
    for weight in block.parameters():
        torch.nn.init.zeros_(weight)
    x = torch.arange(1, 33.0).reshape(1, 2, 4, 4) - 10
    expected = torch.zeros(1, 4, 2, 2)
    expected[0, :2] = torch.relu(x[0, :, ::2, ::2])
    torch.testing.assert_close(block(x), expected, rtol=0, atol=0)


@pytest.mark.workers(1)
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"name": "vgg19"}, ValueError, "'vgg19': no such net; expected one of mlp, cnn"),
        ({"name": "vgg11", "norm": "layer"}, ValueError, "'layer': expected one of group, batch"),
        ({"name": "gpt2", "norm": "batch"}, ValueError, "gpt2 has layer norm.*expected no norm="),
        ({"name": "mlp", "sizes": [4]}, ValueError, r"sizes=\[4\]: expected inputs"),
        ({"name": "mlp", "sizes": [4, 0, 3]}, ValueError, "sizes=0: expected 1 or more"),
        ({"name": "mlp", "activation": "gelu"}, ValueError, "'gelu': expected one of relu"),
        ({"name": "cnn", "input_shape": (1, 9, 28)}, ValueError, "images of at least 10x10"),
        ({"name": "cnn", "input_shape": (1, 3, 8), "padding": 1}, ValueError, "at least 4x4"),
        ({"name": "cnn", "padding": -1}, ValueError, "padding=-1: expected 0 or more"),
        ({"name": "lenet", "input_shape": (1, 12, 11)}, ValueError, "images of at least 12x12"),
        ({"name": "lenet", "input_shape": (1, 28)}, ValueError, r"expected \(channels, height"),
        ({"name": "vgg16", "input_shape": (3, 16, 32)}, ValueError, "at least 17x17"),
        ({"name": "resnet20", "width": 0}, ValueError, "width=0: expected 1 or more"),
        ({"name": "mobilenet", "classes": 2.5}, TypeError, "classes=2.5: expected a whole number"),
        ({"name": "resnet18", "depth": 2}, TypeError, "unexpected keyword argument 'depth'"),
        ({"name": "gpt2", "width": 10, "heads": 3}, ValueError, "expected a multiple of heads=3"),
        ({"name": "gpt2", "layers": 0}, ValueError, "layers=0: expected 1 or more"),
    ],
)
def test_wrong_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        build(**arguments)
