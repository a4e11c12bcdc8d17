"""The proof of user code: the right example passes, and every bug is caught.

The test that catches a bug is the one that `bench/user_code/README.md` names for it.
"""

import numpy as np
import pytest
import torch

from bench.core import turns
from bench.core.cell import Cell
from bench.core.race import measure
from bench.test_user_code import trained
from bench.user_code.loader import Options, load, load_data, load_model, load_net
from bench.user_code.registry import UserCode
from nn import SGD, Batch, lr_schedules, mlp
from nn.loss import CrossEntropy
from strategies import DataParallel, Sequential, ZeRO
from strategies.base import Refused
from tests import test_user_code
from tests.examples.mean_of_means import MeanOfMeans
from tests.examples.ring import RingDataParallel
from tests.support.oracles import assert_trains_like
from tests.test_own_loop import compare
from tests.test_user_code import (  # noqa: F401  # the proof
    OPTIMIZERS,
    OURS,
    Trial,
    test_batches_of_changing_size,
    test_closing_twice,
    test_even_shards,
    test_fewer_rows_than_ranks,
    test_it_begins_with_the_weights_of_the_model,
    test_many_steps,
    test_two_at_once,
    test_uneven_shards,
)

NET = OURS["four_tanh"]


def pytest_generate_tests(metafunc):
    if metafunc.function in (test_even_shards, test_uneven_shards):
        metafunc.parametrize("optimizer", OPTIMIZERS)


@pytest.fixture
def trial(comm):
    return Trial(RingDataParallel, NET, comm, theirs=True)


class Reversed(DataParallel):
    def weights(self):
        return super().weights()[::-1].copy()


class View(DataParallel):
    def weights(self):
        return self.model.params


class SummedTwice(DataParallel):
    def reduce(self, loss):
        loss = super().reduce(loss)
        self.model.grads[:] *= 2
        return loss


class SkipsOneRow(DataParallel):
    def gradients(self, batch):
        if batch.global_count > 1:
            return super().gradients(batch)
        self.model.grads[:] = 0
        return 0.0


class RemembersTheFirstSize(DataParallel):
    rows = 0

    def gradients(self, batch):
        self.rows = self.rows or batch.global_count
        loss = super().gradients(batch)
        self.model.grads[:] *= batch.global_count / self.rows
        return loss


class LosesItsState(DataParallel):
    def update(self):
        super().update()
        if self.optimizer.steps > 20:
            self.optimizer.state.clear()


class OfTheClass(DataParallel):
    def __init__(self, model, optimizer, comm):
        super().__init__(model, optimizer, comm)
        type(self).latest = model

    def update(self):
        self.optimizer.step(self.latest.params, self.latest.grads)


class ClosesOnce(DataParallel):
    def close(self):
        if self.closed:
            raise RuntimeError("closed already")
        self.closed = True


class KeepsACommunicator(DataParallel):
    def __init__(self, model, optimizer, comm):
        super().__init__(model, optimizer, comm)
        self.messages = comm.Split(0, comm.rank).Dup()


class KeepsARowOfAGrid(DataParallel):
    def __init__(self, model, optimizer, comm):
        super().__init__(model, optimizer, comm)
        grid = comm.Create_cart([comm.size, 1])
        self.row = grid.Sub([True, False])
        grid.Free()


@pytest.mark.workers(2)
@pytest.mark.parametrize(
    ("bug", "test"),
    [
        (Reversed, "test_it_begins_with_the_weights_of_the_model"),
        (View, "test_it_begins_with_the_weights_of_the_model"),
        (SummedTwice, "test_even_shards"),
        (MeanOfMeans, "test_uneven_shards"),
        (SkipsOneRow, "test_fewer_rows_than_ranks"),
        (RemembersTheFirstSize, "test_batches_of_changing_size"),
        (LosesItsState, "test_many_steps"),
        (OfTheClass, "test_two_at_once"),
        (ClosesOnce, "test_closing_twice"),
        (KeepsACommunicator, "test_closing_twice"),
        (KeepsARowOfAGrid, "test_closing_twice"),
    ],
)
def test_a_bug_is_caught_by_the_test_named_for_it(comm, bug, test):
    proof = getattr(test_user_code, test)
    wanted = proof.__code__.co_varnames[: proof.__code__.co_argcount]
    arguments = {"optimizer": "sgd", "workers": comm.size}
    with pytest.raises((AssertionError, RuntimeError)):
        proof(
            Trial(bug, NET, comm, theirs=True),
            **{name: value for name, value in arguments.items() if name in wanted},
        )


@pytest.mark.workers(2)
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_means_of_means_are_right_on_even_shards(comm, optimizer):
    """Only uneven shards show the bug."""
    test_even_shards(Trial(MeanOfMeans, NET, comm, theirs=True), optimizer, comm.size)


@pytest.mark.workers(1)
@pytest.mark.parametrize(
    ("error", "theirs", "seen"),
    [
        (Refused, False, pytest.skip.Exception),
        (Refused, True, Refused),
        (ValueError, False, ValueError),
        (TypeError, False, TypeError),
    ],
)
@pytest.mark.parametrize("at", ["__init__", "gradients"])
def test_only_what_one_of_ours_says_that_it_does_not_do_is_skipped(comm, error, theirs, seen, at):
    def fails(*arguments):
        raise error("operands could not be broadcast together")

    broken = type("Broken", (DataParallel,), {at: fails})
    with pytest.raises((error, pytest.skip.Exception), match="operands") as caught:
        Trial(broken, NET, comm, theirs).compare(3)
    assert caught.type is seen


@pytest.mark.workers(1)
def test_the_model_learns_from_its_own_rows(comm):
    rows = load_data("tests/examples/model.py:rows")
    net = load_model("tests/examples/model.py:net", rows)
    assert isinstance(net.build("float64").module, torch.nn.Sequential)
    training = Sequential(net.build("float32"), SGD(0.05, momentum=0.9))
    losses = [training.step(batch) for batch in net.batches([50] * 40, "float32")]
    assert np.mean(losses[-5:]) < losses[0] / 2


def language_model():
    file = "tests/examples/language_model.py"
    return load_model(f"{file}:net", load_data(f"{file}:tokens"))


@pytest.mark.workers(1)
def test_the_language_model_learns_from_its_own_tokens(comm):
    net = language_model()
    training = Sequential(net.build("float32"), SGD(0.5, momentum=0.9))
    losses = [training.step(batch) for batch in net.batches([50] * 60)]
    assert np.mean(losses[-5:]) < losses[0] / 2


@pytest.mark.workers(2)
@pytest.mark.parametrize("strategy", UserCode().strategies())
def test_the_language_model_is_proven_by_all_of_ours(comm, strategy):
    Trial(UserCode().strategies()[strategy], language_model(), comm, theirs=False).compare(7, 5, 7)


@pytest.mark.workers(2)
def test_the_language_model_is_measured(comm, monkeypatch):
    monkeypatch.setattr(turns, "SHORTEST_TURN", 0.002)
    cell = Cell("DataParallel", "net", comm.size, 50, 300)
    result = measure(trained(cell, DataParallel, language_model()), comm, seconds=0)
    assert result.check_error < 1e-3
    assert result.speedup > 0


TRANSFORMER = "tests/examples/transformer.py"


@pytest.mark.workers(1)
def test_plain_training_of_the_transformer_equals_its_loop(comm):
    code = load(Options(recipe=f"{TRANSFORMER}:recipe", reference=f"{TRANSFORMER}:train"))
    assert code.net
    assert code.optimizer
    assert code.reference
    compare(code.reference, code.net, code.optimizer, [6, 5, 1])


@pytest.mark.workers(2)
@pytest.mark.parametrize("strategy", UserCode().strategies())
def test_the_recipe_of_the_transformer_is_proven_by_all_of_ours(comm, strategy):
    made = load_net(Options(recipe=f"{TRANSFORMER}:recipe"))
    assert made.net
    assert made.optimizer
    ours = {"recipe": made.optimizer}
    Trial(UserCode().strategies()[strategy], made.net, comm, False, ours).compare(7, 5, 1)


class ClipsItsOwnSlice(ZeRO):
    """Clips by the norm of the slice that this rank updates."""

    def update(self):
        self.model.grads[:] *= min(1, 0.01 / np.linalg.norm(self.model.grads))
        super().update()


class ClippedSequential(Sequential):
    def update(self):
        self.model.grads[:] *= min(1, 0.01 / np.linalg.norm(self.model.grads))
        super().update()


class StepsTheScheduleOnEachRank(DataParallel):
    """Counts a step for every rank."""

    def update(self):
        super().update()
        self.optimizer.steps += self.comm.size - 1


class MeanOverItsOwnTokens(DataParallel):
    """Divides by the labels that count among this rank's rows."""

    def gradients(self, batch):
        own = batch.shard(self.comm.rank, self.comm.size)
        loss = self.model.gradients(own.as_global())
        self.model.grads[:] /= self.comm.size
        return loss / self.comm.size


class DecaysBiasesOfItsShard(ZeRO):
    """Does not know which parameters its shard holds, so that biases decay too."""

    def _own_parts(self):
        parts = list(super()._own_parts())
        if self.comm.size == 1:
            return parts
        return [part._replace(name=part.name.replace("bias", "weight")) for part in parts]


def overflows(gradient):
    return np.abs(gradient).max(initial=0) > np.finfo(np.float16).max


class SkipsWhatOverflows(Sequential):
    def update(self):
        if not overflows(self.model.grads):
            super().update()


class SkipsWhatOverflowsOnItsRows(DataParallel):
    """Asks no other rank whether its gradient overflows, so that one rank skips a step."""

    def reduce(self, loss):
        self.skips = overflows(self.model.grads)
        return super().reduce(loss)

    def update(self):
        if not self.skips:
            super().update()


class CountsReplicasTwice(DataParallel):
    """Adds the norms of all ranks, which hold the same gradient."""

    @property
    def _norm_comm(self):
        return self.comm


NO_BIASES = [("*.bias", {"weight_decay": 0})]


@pytest.mark.workers(2)
@pytest.mark.parametrize(
    ("bug", "right", "options", "largest"),
    [
        (ClipsItsOwnSlice, ClippedSequential, {}, 1),
        (StepsTheScheduleOnEachRank, Sequential, {}, 1),
        (MeanOverItsOwnTokens, Sequential, {}, 1),
        (DecaysBiasesOfItsShard, Sequential, {"weight_decay": 0.1, "groups": NO_BIASES}, 1),
        (SkipsWhatOverflowsOnItsRows, SkipsWhatOverflows, {}, 1e9),
        (CountsReplicasTwice, Sequential, {"clip_norm": 0.01}, 1),
    ],
)
def test_faults_of_recipes_are_caught(comm, bug, right, options, largest):
    """Seen in public code: each is right on one rank."""

    def made(strategy, *comm):
        model = mlp([3, 5, 3], seed=1, dtype="float64", loss=CrossEntropy(ignore_index=-100))
        return strategy(model, SGD(lr_schedules.cosine(0.2, 9), momentum=0.9, **options), *comm)

    rng = np.random.default_rng(0)
    labels = np.array([0, -100, -100, 2, 1, 0])
    batches = [Batch(rng.standard_normal((6, 3)), labels) for _ in range(3)]
    batches[1].x[-1] *= largest  # a row of the last rank
    alone = comm.Split(comm.rank)
    assert_trains_like(made(right), made(bug, alone), batches, alone)
    with pytest.raises(AssertionError, match=r"weights differ|weights of rank"):
        assert_trains_like(made(right), made(bug, comm), batches, comm)
    alone.Free()


class Still(DataParallel):
    def update(self):
        pass


class StillSequential(Sequential):
    update = Still.update


@pytest.mark.workers(1)
def test_small_steps_are_proven_and_none_are_not(comm):
    def made(strategy, lr, *comm):
        return strategy(NET.build("float64"), SGD(lr), *comm)

    batches = NET.batches([5, 3])
    assert_trains_like(made(Sequential, 1e-7), made(DataParallel, 1e-7, comm), batches, comm)
    with pytest.raises(AssertionError, match=r"moved by .* only, too little to show a difference"):
        assert_trains_like(made(StillSequential, 1), made(Still, 1, comm), batches, comm)
    with pytest.raises(AssertionError, match="weights differ"):
        assert_trains_like(made(Sequential, 1e-7), made(Still, 1e-7, comm), batches, comm)


@pytest.mark.workers(1)
def test_models_of_a_file_are_copies_that_share_nothing(comm):
    net = load_model("tests/examples/model.py:net")
    one, other = net.build("float64"), net.build("float64")
    assert one.parameters == other.parameters
    np.testing.assert_array_equal(one.params, other.params)
    Sequential(one, SGD(0.1)).step(*net.batches([3]))
    assert not np.array_equal(one.params, other.params)
    np.testing.assert_array_equal(other.params, net.build("float64").params)
