"""Torch's own parallel training equals plain training, by the proof that user strategies pass.

If it did not, its times could not be compared with ours.
"""

import weakref
from functools import partial

import numpy as np
import pytest
import torch
import torch.distributed as dist
from mpi4py import MPI

from bench.peers import (
    PEERS,
    PIPELINES,
    DistributedDataParallel,
    FullyShardedDataParallel,
    Peer,
)
from bench.peers.base import torch_optimizer
from bench.user_code.nets import Net
from nn import SGD, AdaGrad, Adam, AdamW, Batch, lr_schedules, mlp
from nn.loss import CrossEntropy, MeanSquaredError
from nn.sequences import Sequences
from nn.torch.model import TorchModel
from nn.torch.zoo import build
from strategies import Sequential
from strategies.base import Refused
from strategies.sharding import cuts as stage_cuts
from tests.bench.user_code.test_proof import language_model
from tests.support.oracles import assert_trains_like, random_batches
from tests.test_user_code import (  # noqa: F401  # the proof
    OPTIMIZERS,
    Trial,
    test_batches_of_changing_size,
    test_closing_twice,
    test_fewer_rows_than_ranks,
    test_it_begins_with_the_weights_of_the_model,
    test_two_at_once,
    test_uneven_shards,
)

pytestmark = pytest.mark.workers(3)


def _module():
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 2, 3),
        torch.nn.Tanh(),
        torch.nn.Flatten(),
        torch.nn.Linear(18, 5),
        torch.nn.Tanh(),
        torch.nn.Linear(5, 4),
    )


NET = Net("net", lambda dtype: TorchModel(_module, dtype=dtype, input_shape=(1, 5, 5)))


def mixed():
    return TorchModel(_module, input_shape=(1, 5, 5), compute="bfloat16")


def pytest_generate_tests(metafunc):
    if metafunc.function is test_uneven_shards:
        metafunc.parametrize("optimizer", OPTIMIZERS)


@pytest.fixture(params=PEERS, ids=lambda peer: peer.__name__)
def trial(request, comm):
    return Trial(request.param, NET, comm, theirs=True)


@pytest.mark.workers(1)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_plain_loop_of_torch_is_sequential_training(comm, optimizer):
    peer = Peer(NET.build("float64"), OPTIMIZERS[optimizer]())
    oracle = Sequential(NET.build("float64"), OPTIMIZERS[optimizer]())
    assert_trains_like(oracle, peer, NET.batches([5, 3, 1]), comm)


@pytest.mark.workers(1)
def test_weight_decay_of_adamw_is_that_of_torch(comm):
    def adamw():
        return AdamW(lr_schedules.cosine(0.05, 9), (0.8, 0.9), 1e-6, weight_decay=0.3)

    peer, oracle = Peer(NET.build("float64"), adamw()), Sequential(NET.build("float64"), adamw())
    assert_trains_like(oracle, peer, NET.batches([5, 3, 1]), comm)


@pytest.mark.workers(1)
@pytest.mark.parametrize(
    "options", [{"clip_value": 1}, {"groups": [("*.bias", {"weight_decay": 0})]}]
)
@pytest.mark.parametrize("optimizer", [SGD, Adam, AdamW, AdaGrad])
def test_what_torch_optimizers_lack_is_refused(comm, optimizer, options):
    (name,) = options
    with pytest.raises(Refused, match=f"an optimizer with {name}: .* expect one without"):
        Peer(NET.build("float64"), optimizer(0.1, **options))


@pytest.mark.workers(1)
@pytest.mark.parametrize(
    "loss",
    [
        CrossEntropy(label_smoothing=0.1),
        CrossEntropy(class_weights=[1, 2, 3, 4]),
        CrossEntropy(ignore_index=-100),
        MeanSquaredError(),
        torch.nn.CrossEntropyLoss(),
    ],
    ids=str,
)
def test_losses_other_than_cross_entropy_are_refused(comm, loss):
    model = TorchModel(_module, input_shape=(1, 5, 5), loss=loss)
    with pytest.raises(Refused, match=r"with the loss .*: expected nn.loss.CrossEntropy\(\)"):
        Peer(model, SGD(0.1))


@pytest.mark.workers(1)
def test_weights_of_rows_and_frozen_parameters_are_refused(comm):
    (batch,) = NET.batches([3])
    weighed = Batch(batch.x, batch.y, weights=np.arange(3.0))
    with pytest.raises(Refused, match="rows with weights"):
        Peer(NET.build("float64"), SGD(0.1)).step(weighed)
    module = _module()
    module[0].requires_grad_(False)
    with pytest.raises(Refused, match="frozen parameters: expected one without"):
        Peer(TorchModel(module, input_shape=(1, 5, 5)), SGD(0.1))


@pytest.mark.workers(1)
def test_what_torch_cannot_train_is_refused(comm):
    with pytest.raises(TypeError, match="expected a TorchModel"):
        Peer(mlp([3, 2]), SGD(0.1))
    with pytest.raises(Refused, match="computes in bfloat16: expected one without"):
        Peer(mixed(), SGD(0.1))
    elsewhere = NET.build("float64")
    elsewhere.module.to("meta")
    with pytest.raises(Refused, match="a model on meta: expected one on the CPU, where gloo is"):
        Peer(elsewhere, SGD(0.1))
    with pytest.raises(TypeError, match=r"expected nn\.SGD"):
        torch_optimizer(object(), [])


@pytest.mark.workers(2)
@pytest.mark.parametrize("peer", PIPELINES)
def test_pipelines_of_peers_pass_several_micro_batches(comm, peer):
    pipeline = peer(NET.build("float32"), SGD(0.1), comm)
    (batch,) = NET.batches([8], "float32")
    pipeline.step(batch)
    (schedule,) = pipeline._schedules.values()
    assert schedule._n_microbatches == 4
    assert np.isfinite(pipeline.weights()).all()
    pipeline.close()


@pytest.mark.parametrize("peer", PIPELINES)
def test_a_stage_of_peers_may_have_no_weights(comm, monkeypatch, peer):
    """Stages are cut by measured times, so any stage may end up without weights."""
    monkeypatch.setattr(stage_cuts, "choose", lambda *arguments: [0, 1, 3, 6])  # Tanh and Flatten
    Trial(peer, NET, comm, theirs=True).compare(6, 5)


def _gpt2():
    return build("gpt2", layers=2, heads=2, width=8, vocabulary=7, context=5)


@pytest.mark.parametrize("peer", [Peer, *PEERS])
def test_peers_train_language_models(comm, peer):
    tokens = np.random.default_rng(0).integers(0, 7, (20, 6))
    net = Net(
        "gpt2",
        lambda dtype: TorchModel(_gpt2, dtype=dtype, input_shape=(5,)),
        partial(Sequences, tokens),
    )
    Trial(peer, net, MPI.COMM_SELF if peer is Peer else comm, theirs=True).compare(7, 6, 7)


@pytest.mark.parametrize("peer", [Peer, DistributedDataParallel, FullyShardedDataParallel])
def test_peers_clip_by_the_norm_of_the_whole_gradient(comm, peer):
    def sgd():  # AdamW would move as far without the clipping
        return SGD(0.1, momentum=0.9, clip_norm=1e-2)

    strategy = peer(NET.build("float64"), sgd(), MPI.COMM_SELF if peer is Peer else comm)
    oracle = Sequential(NET.build("float64"), sgd())
    assert_trains_like(oracle, strategy, random_batches(NET.build("float64"), 7), comm)
    assert oracle.grad_norm() > 0.1
    strategy.close()


@pytest.mark.parametrize("peer", PIPELINES)
def test_pipelines_of_torch_refuse_to_clip(comm, peer):
    with pytest.raises(Refused, match="knows the norm of a stage only"):
        peer(NET.build("float64"), SGD(0.1, clip_norm=1.0), comm)


@pytest.mark.parametrize("peer", [Peer, *PEERS])
def test_peers_draw_the_masks_of_dropout(comm, peer):
    trial = Trial(peer, language_model(), MPI.COMM_SELF if peer is Peer else comm, theirs=False)
    if peer not in PIPELINES:
        trial.compare(7, 6, 7)
        return
    with pytest.raises(pytest.skip.Exception, match="a net with dropout: "):
        trial.strategy()
    assert not dist.is_initialized(), "the process group was left open"


@pytest.mark.workers(1)
def test_who_takes_the_step_counts_it_for_dropout(comm):
    """With equal weights and one batch, only the masks make losses differ."""
    modules = [torch.nn.Linear(6, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 3)]
    model = TorchModel(modules, dtype="float64", seed=1)
    peer = Peer(model, SGD(1e-12), comm)
    Sequential(model, SGD(1e-12))
    (batch,) = random_batches(model, 5, steps=1)
    assert np.ptp([peer.step(batch) for _ in range(4)]) > 1e-3


@pytest.mark.workers(2)
def test_one_that_refuses_makes_room_for_the_next(comm):
    """Peers share the process group: one that refuses its model must leave it again."""
    with pytest.raises(Refused):
        DistributedDataParallel(mixed(), SGD(0.1), comm)
    peer = DistributedDataParallel(NET.build("float64"), SGD(0.1), comm)
    assert np.isfinite(peer.step(*NET.batches([4])))
    peer.close()
    assert not dist.is_initialized(), "the process group was left open"


class Chooses(torch.nn.Module):
    """Rows of positive first feature go through one Linear, the others through another."""

    def __init__(self):
        super().__init__()
        self.choices = torch.nn.ModuleList(torch.nn.Linear(5, 4) for _ in range(2))

    def forward(self, x):
        rows = [x[:, :1] > 0, x[:, :1] <= 0]
        return sum(
            (
                torch.where(those, choice(x), 0)
                for those, choice in zip(rows, self.choices)
                if those.any()
            ),
            torch.zeros(len(x), 4, dtype=x.dtype),
        )


@pytest.mark.workers(2)
def test_ddp_trains_parameters_that_some_ranks_do_not_use(comm):
    def model():
        torch.manual_seed(0)
        return TorchModel(Chooses(), dtype="float64", input_shape=(5,))

    batches = random_batches(model(), 6, steps=4)
    for batch, below in zip(batches, (3, 0, 6, 2)):  # of some batches no rank uses one of them
        batch.x[:, 0] = np.abs(batch.x[:, 0]) + 0.1
        batch.x[:below, 0] *= -1
    decaying = partial(SGD, 0.1, momentum=0.9, weight_decay=0.1)
    peer = DistributedDataParallel(model(), decaying(), comm)
    assert_trains_like(Sequential(model(), decaying()), peer, batches, comm)
    peer.close()
    with pytest.raises(Refused, match=r"^choices.0.weight may get no gradient: FSDP expected"):
        FullyShardedDataParallel(model(), decaying(), comm)


@pytest.mark.workers(2)
@pytest.mark.parametrize("peer", PIPELINES)
def test_pipelines_of_torch_refuse_weights_that_two_stages_share(comm, peer):
    torch.manual_seed(0)
    module = torch.nn.Sequential(*(torch.nn.Linear(5, 5) for _ in range(4)))
    module[3].weight = module[0].weight
    with pytest.raises(Refused, match=r"^0.weight is in two stages, and torch would train two"):
        peer(TorchModel(module, input_shape=(5,)), SGD(0.1), comm)


@pytest.mark.workers(2)
def test_ddp_closes_its_reducer_before_the_process_group(comm, monkeypatch):
    """In the other order it hangs if gloo's threads are late, as on a crowded machine."""
    peer, closed = DistributedDataParallel(NET.build("float64"), SGD(0.1), comm), []
    peer.step(*NET.batches([4]))
    destroy = dist.destroy_process_group
    monkeypatch.setattr(dist, "destroy_process_group", lambda: (closed.append("group"), destroy()))
    weakref.finalize(peer.module.reducer, closed.append, "reducer")
    peer.close()
    assert closed == ["reducer", "group"]
