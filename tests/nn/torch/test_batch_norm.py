"""Batch norm normalises shard by shard, or synchronised over the batch, as one process would.

Running statistics have no effect on a training step: weights are compared with the oracles that
other nets use, and statistics with those of one process that normalises shard by shard.
"""

from copy import copy
from functools import cache

import numpy as np
import pytest
import torch
from torch import nn as tnn

from nn.torch.model import TorchModel
from strategies import (
    Hogwild,
    Hybrid,
    LocalSGD,
    ParameterServer,
    Pipeline,
    Sequential,
    TensorParallel,
)
from strategies.base import Refused
from strategies.training import load, save
from tests.support.exact import DATA_PARALLEL, EXACT
from tests.support.optimizers import momentum
from tests.support.oracles import MatchedOrder, Recorded, assert_trains_like, random_batches

torch.set_num_threads(1)


def build(sync=None, part=0.1):
    layers = [
        *(tnn.Conv2d(2, 3, 3), tnn.BatchNorm2d(3, momentum=part), tnn.ReLU(), tnn.Flatten(2)),
        *(tnn.Linear(16, 5), tnn.BatchNorm1d(3, momentum=part), tnn.Tanh(), tnn.Flatten()),
        tnn.Linear(15, 3),
    ]
    return TorchModel(layers, dtype="float64", seed=1, input_shape=(2, 6, 6), sync_batch_norm=sync)


@cache
def untrained():
    """A model that is built once and used only for its shapes and first statistics."""
    return build()


class Ghosts(MatchedOrder):
    """One process that normalises shard by shard, with running statistics for each shard.

    Hoffer, Hubara, Soudry, "Train longer, generalize better" (2017), algorithm 1.
    """

    def __init__(self, model, optimizer, shards):
        super().__init__(model, optimizer, shards)
        self.kept = [model.statistics.arrays() for _ in range(shards)]
        self.rows = np.zeros(shards)

    def gradients(self, batch):
        parts, losses = [], []
        for k in range(self.shards):
            self.model.statistics.load(self.kept[k])
            losses.append(self.model.gradients(batch.shard(k, self.shards)))
            parts.append(self.model.grads.copy())
            self.kept[k] = self.model.statistics.arrays()
            self.rows[k] += len(batch.shard(k, self.shards))
        self.model.grads[:] = np.sum(parts, axis=0)
        return float(sum(losses))

    def statistics(self):
        return {
            name: np.average([kept[name] for kept in self.kept], axis=0, weights=self.rows)
            for name in self.kept[0]
            if not name.endswith("tracked")
        }


@cache
def trained_on_shards(rows, shards):
    """The recorded steps of the oracle that normalises by shards, and its statistics after them."""
    oracle = Ghosts(build(), momentum(), shards)
    recorded = Recorded(oracle, random_batches(oracle.model, rows))
    return recorded, oracle.statistics()


@cache
def trained_on_whole_batches(rows, part):
    """The recorded steps of plain training, and its model after them."""
    oracle = Sequential(build(None, part), momentum())
    return Recorded(oracle, random_batches(oracle.model, rows)), oracle.model


def assert_statistics(model, expected):
    found = model.statistics.arrays()
    assert expected
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-11, atol=1e-13, err_msg=name)


@pytest.mark.parametrize("strategy", DATA_PARALLEL)
@pytest.mark.parametrize("rows", [9, 2])
def test_equals_ghost_batches(comm, strategy, rows):
    """9 rows make uneven shards; with 2 rows and 3 workers or more, some have no rows."""
    model = build()
    parallel = EXACT[strategy](model, momentum(), comm)
    oracle, statistics = trained_on_shards(rows, comm.size)
    assert_trains_like(copy(oracle), parallel, oracle.batches, comm)
    parallel.close()
    assert_statistics(model, statistics)
    for others in comm.allgather(model.statistics.arrays()):
        assert_statistics(model, others)


@pytest.mark.parametrize("rows", [9, 2])
@pytest.mark.parametrize("part", [0.1, None])
@pytest.mark.parametrize("strategy", ["DataParallel", "SharedDataParallel", "ZeRO-3", "TopK-all"])
def test_synchronised_equals_the_whole_batch(comm, strategy, rows, part):
    """Weights, statistics and predictions are equal; `part` None means a mean over all steps."""
    model = build(comm, part)
    parallel = EXACT[strategy](model, momentum(), comm)
    oracle, single = trained_on_whole_batches(rows, part)
    assert_trains_like(copy(oracle), parallel, oracle.batches, comm)
    weights = parallel.weights()
    parallel.close()
    assert_statistics(model, single.statistics.arrays())
    model.params[:] = weights
    x = oracle.batches[0].x
    np.testing.assert_array_equal(model.predict(x), single.predict(x))


@pytest.mark.workers(1, 2)
def test_synchronised_computes_as_torch_does_in_bfloat16(comm):
    """Rows are bfloat16; sums, statistics and messages are float32."""

    def mixed(sync):
        layers = [tnn.Linear(5, 4), tnn.BatchNorm1d(4), tnn.ReLU(), tnn.Linear(4, 3)]
        return TorchModel(layers, seed=1, compute="bfloat16", sync_batch_norm=sync)

    model, single = mixed(comm), mixed(None)
    (batch,) = random_batches(single, 64, steps=1)
    loss = comm.allreduce(model.gradients(batch.shard(comm.rank, comm.size)))
    assert loss == pytest.approx(single.gradients(batch), rel=1e-3)
    mean, expected = (m.statistics.arrays()["1.running_mean"] for m in (model, single))
    np.testing.assert_allclose(mean, expected, rtol=1e-5, atol=1e-7)
    gradient = comm.allreduce(model.grads)
    assert np.abs(gradient - single.grads).max() < 2e-2 * np.abs(single.grads).max()


@pytest.mark.parametrize("micro_batches", [1, 3])
def test_a_pipeline_normalises_micro_batches(comm, micro_batches):
    """Each stage keeps the statistics of its layers; measuring the stages does not change them."""
    model, single = build(), build()
    parallel = Pipeline(model, momentum(), comm, micro_batches)
    oracle = MatchedOrder(single, momentum(), micro_batches)
    assert_trains_like(oracle, parallel, random_batches(single, 8), comm)
    assert_statistics(model, single.statistics.arrays())
    parallel.close()


@pytest.mark.parametrize("strategy", [*DATA_PARALLEL, "Pipeline", "TensorParallel"])
def test_a_resumed_run_goes_on_with_the_statistics(comm, tmp_path, strategy):
    path = comm.bcast(tmp_path) / "run.npz"
    models = build(), build()
    first, resumed = (EXACT[strategy](model, momentum(), comm) for model in models)
    before, after = random_batches(untrained(), 9, steps=2)
    first.step(before)
    save(path, first)
    resumed.step(random_batches(untrained(), 5, steps=1)[0])  # no trace of this step may remain
    load(path, resumed)
    for each in (first, resumed):
        each.step(after)
    np.testing.assert_array_equal(resumed.weights(), first.weights())
    kept, fresh = models[0].statistics.arrays(), untrained().statistics.arrays()
    for name, value in models[1].statistics.arrays().items():
        np.testing.assert_array_equal(value, kept[name])
        assert (value != fresh[name]).all()
    for each in (first, resumed):
        each.close()


def test_gathering_weighs_rows_since_the_last_time(comm):
    """A second `gather` changes nothing; if then only the last rank has rows, only these count."""
    model = build()
    batches = random_batches(model, 8, steps=2)
    model.gradients(batches[0].shard(comm.rank, comm.size))
    model.statistics.gather(comm)
    once = model.statistics.arrays()
    model.statistics.gather(comm)
    for name, value in model.statistics.arrays().items():
        np.testing.assert_array_equal(value, once[name])
    if comm.rank == comm.size - 1:
        model.gradients(batches[1])
    expected = comm.bcast(model.statistics.arrays(), comm.size - 1)
    assert np.abs(expected["1.running_mean"] - once["1.running_mean"]).max() > 1e-3
    model.statistics.gather(comm)
    assert_statistics(model, expected)


@pytest.mark.workers(2)
def test_the_number_of_batches_is_the_nearest_whole_one_to_the_mean(comm):
    """2 batches of 2 rows and 3 batches of 4 rows have a mean of 2.75, weighted by rows."""
    model = build()
    for batch in random_batches(model, 2 * (comm.rank + 1), steps=2 + comm.rank):
        model.gradients(batch)
    model.statistics.gather(comm)
    assert model.statistics.arrays()["1.num_batches_tracked"] == 3


class Shared(tnn.Module):
    """A module with one batch norm under two names."""

    def __init__(self):
        super().__init__()
        self.norm = self.same = tnn.BatchNorm1d(5)

    def forward(self, x):
        return self.same(x)


@pytest.mark.parametrize(
    "layers", [lambda: [Shared()], lambda: 2 * [tnn.BatchNorm1d(5, 1e-5, 0.1, False, False)]]
)
def test_a_batch_norm_in_two_places_is_synchronised_in_both(comm, layers):
    def shared(sync=None):
        norms = layers()
        modules = [tnn.Linear(6, 5), norms[0], tnn.Tanh(), *norms[1:], tnn.Linear(5, 3)]
        return TorchModel(modules, dtype="float64", sync_batch_norm=sync, seed=0)

    parallel = EXACT["DataParallel"](shared(comm), momentum(), comm)
    oracle = Sequential(shared(), momentum())
    assert_trains_like(oracle, parallel, random_batches(shared(), 9), comm)


@pytest.mark.workers(1)
def test_predictions_use_the_running_statistics():
    model = build()
    x = random_batches(model, 6, steps=1)[0].x
    together = model.predict(x)
    np.testing.assert_array_equal(model.predict(x, rows=1), together)
    with torch.no_grad():
        theirs = model.module.eval()(torch.from_numpy(x)).argmax(dim=1).numpy()
    np.testing.assert_array_equal(together, theirs)


@pytest.mark.workers(2)
@pytest.mark.deadline(10)
def test_synchronised_batch_norm_is_refused_where_ranks_do_different_things(comm):
    """It is also refused where ranks keep their own pace or their own weights."""
    doing_different_things = Pipeline, TensorParallel, lambda *a: Hybrid(*a, data=2)
    for strategy in (*doing_different_things, ParameterServer, Hogwild, LocalSGD):
        with pytest.raises(Refused, match=r"sync_batch_norm=\.\.\. is for strategies whose"):
            strategy(build(comm), momentum(), comm)


@pytest.mark.workers(1)
def test_statistics_of_another_model_are_refused():
    statistics = build().statistics.arrays()
    statistics["1.running_mean"] = np.zeros(4)
    with pytest.raises(ValueError, match="statistics of"):
        build().statistics.load(statistics)
    state = Sequential(build(), momentum()).state()
    plain = Sequential(TorchModel([tnn.Linear(len(state["params"]), 1, bias=False)]), momentum())
    state |= {"params": state["params"].astype("float32"), "steps": np.array(3)}
    before = plain.weights()
    with pytest.raises(ValueError, match="statistics of"):
        plain.load_state(state)
    assert plain.optimizer.steps == 0
    np.testing.assert_array_equal(plain.weights(), before)
