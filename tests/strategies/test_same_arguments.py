"""Arguments that differ on one rank are refused on all ranks, by name, before anybody waits."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from mpi4py import MPI

from nn import EMA, SGD, Adam, AdamW, Model, mlp
from nn.layers import Linear, ReLU, Residual, Tanh
from nn.loss import CrossEntropy, MeanSquaredError
from nn.lr_schedules import cosine, warmup
from nn.torch import TorchModel, TorchOptimizer
from strategies import DataParallel, LocalSGD, Sequential, SharedDataParallel, ZeRO
from strategies.catalog import CATALOG
from strategies.compressed_data_parallel import CompressedDataParallel, PowerSGD
from tests.support.optimizers import momentum
from tests.support.oracles import random_batches

WRONG: Any = "two"


def net(**settings):
    return mlp([4, 6, 5, 3], **settings)


def torch_net(p=0.1, **settings):
    modules = [torch.nn.Linear(4, 6), torch.nn.Dropout(p), torch.nn.Linear(6, 3)]
    return TorchModel(modules, **{"seed": 0, **settings})


def lr_of(rate):
    return lambda step: rate / (step + 1)


class Rates:
    def __init__(self, rate):
        self.rate = rate

    def at(self, step):
        return self.rate


class Given(DataParallel):
    """Its constructor has no parameter called comm, so that of DataParallel compares."""

    def __init__(self, *given):
        super().__init__(*given)


class Talking(DataParallel):
    may_differ = ("verbose",)

    def __init__(self, model, optimizer, comm, verbose=False):
        super().__init__(model, optimizer, comm)


def weighted(weight):
    loss = torch.nn.CrossEntropyLoss(weight=torch.tensor([1.0, 1.0, weight]))
    return TorchModel([torch.nn.Linear(4, 3)], seed=0, loss=loss)


def residual(odd):
    layers = [Residual(Linear(4, 4), Tanh() if odd else ReLU())]
    return Model(layers, params=np.ones(20), input_shape=(4,))


def without_a_cell():
    """A schedule whose helper is defined only later."""

    def schedule(step):
        return rate(step)

    yield schedule

    def rate(step):
        return 0.1

    yield schedule


DIFFERING = {  # what this rank builds, given whether it is the odd one; and what the message says
    "class": (
        lambda odd, c: (ZeRO if odd else DataParallel)(net(), SGD(0.1), c),
        "strategy is DataParallel",
    ),
    "buckets": (lambda odd, c: DataParallel(net(), SGD(0.1), c, 1 + odd), "buckets is 1"),
    "period": (lambda odd, c: LocalSGD(net(), SGD(0.1), c, period=1 + odd), "period is 1"),
    "a wrong type": (
        lambda odd, c: DataParallel(net(), SGD(0.1), c, buckets=WRONG if odd else 2),
        "'two' on rank",
    ),
    "a wrong value": (lambda odd, c: LocalSGD(net(), SGD(0.1), c, period=1 - odd), "period is 1"),
    "one too many": (lambda odd, c: ZeRO(net(), SGD(0.1), c, *[1] * (1 + 9 * odd)), "too many"),
    "no such name": (lambda odd, c: ZeRO(net(), SGD(0.1), c, **{"stag": 1} if odd else {}), "stag"),
    "no model": (lambda odd, c: ZeRO(WRONG if odd else net(), SGD(0.1), c), "model is"),
    "no optimizer": (lambda odd, c: ZeRO(net(), None if odd else SGD(0.1), c), "optimizer is SGD"),
    "kind of optimizer": (
        lambda odd, c: LocalSGD(net(), Adam(0.1) if odd else AdamW(0.1), c),
        "optimizer is AdamW",
    ),
    "learning rate": (
        lambda odd, c: SharedDataParallel(net(), SGD(0.1 + odd), c),
        "optimizer.lr is 0.1 on rank 0",
    ),
    "schedule": (lambda odd, c: ZeRO(net(), SGD(cosine(0.1, 9 + odd)), c), "steps is 9"),
    "nested schedule": (
        lambda odd, c: ZeRO(net(), SGD(warmup(cosine(0.1 + odd, 9), 2)), c),
        "lr is 0.1",
    ),
    "schedule of one's own": (
        lambda odd, c: ZeRO(net(), SGD(lr_of(0.1 + odd)), c),
        "rate is 0.1",
    ),
    "partial schedule": (
        lambda odd, c: ZeRO(net(), SGD(partial(pow, 0.1 + odd)), c),
        "0.1 on rank 0",
    ),
    "clipping": (lambda odd, c: ZeRO(net(), SGD(0.1, clip_norm=1.0 + odd), c), "clip_norm is 1.0"),
    "groups": (
        lambda odd, c: ZeRO(net(), SGD(0.1, groups=[("*.bias", {"lr": 0.2 + odd})]), c),
        "groups[0][1]['lr'] is 0.2",
    ),
    "average": (lambda odd, c: ZeRO(net(), EMA(SGD(0.1), 0.9 - 0.1 * odd), c), "0.9 on rank 0"),
    "torch's optimizer": (
        lambda odd, c: ZeRO(torch_net(), TorchOptimizer(partial(torch.optim.SGD, lr=0.1 + odd)), c),
        "lr",
    ),
    "compression": (
        lambda odd, c: CompressedDataParallel(net(), SGD(0.1), c, PowerSGD(1 + odd)),
        "rank is 1",
    ),
    "loss": (
        lambda odd, c: ZeRO(net(loss=(MeanSquaredError if odd else CrossEntropy)()), SGD(0.1), c),
        "model.loss is CrossEntropy",
    ),
    "an array of a loss": (
        lambda odd, c: ZeRO(net(loss=CrossEntropy(class_weights=[1, 1, 1 + odd])), SGD(0.1), c),
        "class_weights",
    ),
    "a tensor of a torch loss": (lambda odd, c: ZeRO(weighted(1.0 + odd), SGD(0.1), c), "weight"),
    "a layer in a layer": (lambda odd, c: ZeRO(residual(odd), SGD(0.1), c), "Tanh"),
    "a method as schedule": (
        lambda odd, c: ZeRO(net(), SGD(Rates(0.1 + odd).at), c),
        "rate is 0.1",
    ),
    "a constructor without comm": (
        lambda odd, c: Given(net(), SGD(0.1 + odd), c),
        "optimizer.lr is 0.1",
    ),
    "setting of a loss": (
        lambda odd, c: ZeRO(net(loss=CrossEntropy(label_smoothing=0.1 * odd)), SGD(0.1), c),
        "label_smoothing is 0.0",
    ),
    "weights": (lambda odd, c: ZeRO(net(seed=int(odd)), SGD(0.1), c), "model.weights is"),
    "dtype": (
        lambda odd, c: ZeRO(net(dtype="float64" if odd else "float32"), SGD(0.1), c),
        "model.dtype is float32",
    ),
    "shapes": (
        lambda odd, c: ZeRO(mlp([4, 5, 6, 3] if odd else [4, 6, 5, 3]), SGD(0.1), c),
        "of shape (6, 4)",
    ),
    "a layer's setting": (
        lambda odd, c: ZeRO(Model([Linear(4, 3, gain=1.0 + odd)], params=np.ones(15)), SGD(0.1), c),
        "gain=1.0",
    ),
    "a torch module's setting": (
        lambda odd, c: ZeRO(torch_net(0.1 + 0.2 * odd), SGD(0.1), c),
        "Dropout(p=0.1",
    ),
    "seed of dropout": (
        lambda odd, c: ZeRO(torch_net(seed=int(odd), params=np.ones(51, np.float32)), SGD(0.1), c),
        "model.seed is 0",
    ),
}


@pytest.mark.workers(2, 4)
@pytest.mark.parametrize("case", DIFFERING)
def test_refused_on_every_rank(comm, case):
    build, said = DIFFERING[case]
    odd = comm.rank == comm.size - 1
    with pytest.raises(ValueError, match=r"^the ranks' (models|arguments) differ: ") as caught:
        build(odd, comm)
    message = str(caught.value)
    assert said in message, message
    assert f"rank {comm.size - 1}" in message
    assert len(set(comm.allgather(message))) == 1


@pytest.mark.workers(2)
@pytest.mark.parametrize("case", DIFFERING)
def test_the_same_is_built(comm, case):
    """The message is not about anything else: where no rank is odd, the strategy is built."""
    strategy = DIFFERING[case][0](False, comm)
    strategy.close()


@pytest.mark.workers(4)
@pytest.mark.parametrize("name", CATALOG)
def test_all_strategies_compare(comm, name):
    rate = 0.2 if comm.rank == 3 else 0.1
    if name == "Sequential":  # some ranks may run it and others not
        CATALOG[name](net(), SGD(rate), comm)
        return
    with pytest.raises(
        ValueError, match=r"optimizer\.lr is 0\.1 on rank 0, 1, 2, but 0\.2 on rank 3"
    ):
        CATALOG[name](net(), SGD(rate), comm)


@pytest.mark.workers(2)
def test_what_may_differ(comm):
    """What an optimizer has kept of another training, the order of a dict, what a class names."""
    model, optimizer = net(), momentum()
    if comm.rank:
        Sequential(net(), optimizer).step(random_batches(model, 1, 4)[0])
        optimizer.steps = 0
    LocalSGD(model, optimizer, comm).close()
    settings = [("lr", 0.2), ("weight_decay", 0.1)]
    groups = [("*.bias", dict(settings[:: 1 - 2 * comm.rank]))]
    DataParallel(net(), SGD(0.1, groups=groups), comm).close()
    Talking(net(), SGD(0.1), comm, verbose=comm.rank == 0).close()
    DataParallel(net(), SGD(next(without_a_cell())), comm).close()


@pytest.mark.workers(2)
def test_a_description_that_fails_keeps_nobody_waiting(comm):
    class Broken:
        bind = gradients = grads = None

        @property
        def params(self):
            raise RuntimeError("planted")

    with pytest.raises(ValueError, match="raises RuntimeError"):
        DataParallel(Broken() if comm.rank else net(), SGD(0.1), comm)
    endless = []
    endless.append(endless)
    with pytest.raises(TypeError, match="buckets"):
        DataParallel(net(), SGD(0.1), comm, endless)


def test_a_null_communicator_is_refused_by_name():
    with pytest.raises(TypeError, match="not null"):
        DataParallel(net(), SGD(0.1), MPI.COMM_NULL)
