"""What the catalog says of each strategy is true, and a new entry takes part at once."""

import pytest
from torch import nn as tnn

from bench.core import grid
from bench.core.cell import Cell
from bench.core.race import measure
from bench.core.silence import Silent
from bench.user_code.registry import UserCode
from nn.torch.model import TorchModel
from strategies import DataParallel, Sequential
from strategies.base import Refused
from strategies.catalog import CATALOG, USES, Entry, added, select
from tests.support.optimizers import momentum
from tests.support.oracles import assert_trains_like, random_batches
from tests.support.small_nets import NETS
from tests.support.two_nodes import TwoNodes

build = NETS["five_narrow"]
every_entry = pytest.mark.parametrize("name", CATALOG)


def make(name, model, comm):
    entry = CATALOG[name]
    if comm.size < entry.fewest_ranks:
        with pytest.raises(Refused, match=f"needs {entry.fewest_ranks} ranks"):
            entry(model, momentum(), comm)
        pytest.skip(f"{name} needs {entry.fewest_ranks} ranks")
    return entry(model, momentum(), comm)


@pytest.mark.parametrize("name", select(exact=True))
def test_exact_entries_train_the_weights_of_plain_training(comm, name):
    """17 rows make uneven shards, and are enough for eight micro-batches."""
    parallel, oracle = make(name, build(), comm), Sequential(build(), momentum())
    own_loss = CATALOG[name].own_loss
    assert_trains_like(oracle, parallel, random_batches(build(), 17), comm, own_loss=own_loss)
    parallel.close()


@pytest.mark.workers(1)
@pytest.mark.parametrize("name", select(exact=False))
def test_inexact_entries_say_why(name):
    assert CATALOG[name].inexact.endswith("see how soon it is as good as plain training")


@pytest.mark.workers(3)
@every_entry
def test_own_loss_tells_whether_ranks_return_one_loss(comm, name):
    parallel = make(name, build(), comm)
    losses = comm.allgather(parallel.step(random_batches(build(), 17)[0]))
    parallel.close()
    assert (len(set(losses)) > 1) == CATALOG[name].own_loss


@pytest.mark.workers(4)
@every_entry
def test_one_node_tells_which_are_refused_on_several(comm, name):
    if CATALOG[name].one_node:
        with pytest.raises(Refused, match="more than one node"):
            make(name, build(), TwoNodes(comm))
    else:
        make(name, build(), TwoNodes(comm)).close()


class Flat:
    """A model that shows its two vectors alone."""

    def __init__(self, model):
        self.offsets, self.bind, self.gradients = model.offsets, model.bind, model.gradients
        self._model = model

    params = property(lambda self: self._model.params)
    grads = property(lambda self: self._model.grads)


@pytest.mark.workers(4)
@every_entry
def test_needs_layers_tells_which_refuse_a_model_without(comm, name):
    if CATALOG[name].needs_layers:
        with pytest.raises(Refused, match=r"expected nn\.Model"):
            make(name, Flat(build()), comm)
    else:
        make(name, Flat(build()), comm).close()


@pytest.mark.workers(4)
@pytest.mark.parametrize("name", [name for name in CATALOG if name != "Sequential"])
def test_syncs_batch_norm_tells_which_refuse_it(comm, name):
    """Plain training is left out: it has no other ranks to wait for."""
    layers = [tnn.Linear(5, 4), tnn.BatchNorm1d(4), tnn.Linear(4, 4), tnn.Linear(4, 3)]
    net = TorchModel(layers, dtype="float64", seed=1, sync_batch_norm=comm)
    if CATALOG[name].syncs_batch_norm:
        make(name, net, comm).close()
    else:
        with pytest.raises(Refused, match="sync_batch_norm"):
            make(name, net, comm)


@pytest.mark.workers(4)
@pytest.mark.deadline(20)
@pytest.mark.parametrize("name", select(runs_silent=True))
def test_runs_silent_tells_which_run_without_messages(comm, name):
    silent = Silent(comm)
    with silent.private_memory():
        strategy = make(name, build(), silent)
    with silent.silence():
        strategy.step(random_batches(build(), 17)[0])
    strategy.close()


@pytest.mark.workers(1)
def test_a_new_entry_takes_part_and_is_gone_again():
    mine = Entry("Mine", DataParallel)
    for use in USES:
        assert "Mine" not in select(use)
        with added(mine):
            assert select(use, exact=True, needs_mpi=False)["Mine"] is mine
            with pytest.raises(ValueError, match="'Mine' already"), added(mine):
                pass
            assert "Mine" in CATALOG
    assert "Mine" not in CATALOG


@pytest.mark.workers(1)
def test_a_new_entry_is_proven_measured_and_tried_with_users_models(comm):
    with added(Entry("Mine", DataParallel)):
        assert "Mine" in grid.synchronous()
        assert "Mine" in UserCode().strategies()
        result = measure(grid.case(Cell("Mine", "mlp", 1, 64, 1000)), comm, seconds=0, steps=1)
    assert result.check_error < 1e-3


@pytest.mark.workers(1)
def test_says_what_was_expected():
    with pytest.raises(ValueError, match="expected one of proof, user, grid, race"):
        select("tests")
    with pytest.raises(ValueError, match="expected some of proof, user, grid, race"):
        Entry("Mine", DataParallel, uses=("tests",))
