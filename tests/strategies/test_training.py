"""The training loop equals one written by hand, to the bit, and so does a training that resumes."""

import json
import time
from dataclasses import fields, replace
from functools import partial
from itertools import pairwise, product

import numpy as np
import pytest
from mpi4py import MPI

from nn import SGD, Adam, Batch, checkpoint, data, lr_schedules, mlp
from nn.data import Dataset
from nn.sequences import Sequences
from strategies import DataParallel, History, LocalSGD, Sequential, train
from strategies import records as records_on_disk
from strategies.training import Evaluation, load, save
from tests.support.exact import EXACT
from tests.support.optimizers import momentum

IRIS = data.load("iris")
BATCH, EPOCHS, SEED = 32, 3, 5
STEPS = EPOCHS * IRIS.steps_per_epoch(BATCH)
BY_NAME = {"Sequential": Sequential, **EXACT}

fit = partial(train, batch_size=BATCH, epochs=EPOCHS, seed=SEED)


@pytest.fixture
def path(comm, tmp_path):
    """One file for all ranks."""
    return comm.bcast(tmp_path) / "training.npz"


def build():
    return mlp([4, 8, 7, 6, 5, 3], seed=3)


def strategy(comm, make=DataParallel, optimizer=momentum):
    return make(build(), optimizer(), comm)


def scheduled():
    return SGD(lr_schedules.cosine(0.1, STEPS), momentum=0.9, nesterov=True)


def norm(weights):
    return {"norm": np.linalg.norm(weights)}


def outcome(history):
    """What a history says, without times."""
    values = [(each.step, each.values) for each in history.evaluations]
    norms = [None if np.isnan(norm) else norm for norm in history.grad_norm]
    return replace(history, seconds=[], grad_norm=norms, evaluations=values)


def assert_same_weights(one, other):
    np.testing.assert_array_equal(one.weights(), other.weights())


# The loop


@pytest.mark.parametrize("name", BY_NAME)
def test_equals_the_loop_written_by_hand(comm, name):
    by_hand, trained, ahead = (strategy(comm, BY_NAME[name], scheduled) for _ in range(3))
    losses, rates, rows = [], [], []
    for batch in IRIS.batches(BATCH, EPOCHS, SEED):
        rates.append(by_hand.optimizer.lr(by_hand.optimizer.steps))
        losses.append(by_hand.step(batch))
        rows.append(len(batch))
    history = fit(trained, IRIS)
    assert_same_weights(trained, by_hand)
    assert history.loss == comm.bcast(losses)
    assert history.learning_rate == rates
    assert history.samples == np.cumsum(rows).tolist()
    assert history.steps == STEPS
    assert outcome(fit(ahead, IRIS, prefetch=2)) == outcome(history)
    assert_same_weights(ahead, by_hand)
    for each in (by_hand, trained, ahead):
        each.close()


@pytest.mark.workers(2)
def test_a_rank_reads_ahead_its_own_rows_alone(comm):
    asked = []

    class Watched(Dataset):
        def batches(self, *args, **options):
            asked.append(options)
            return super().batches(*args, **options)

    watched = Watched(**{f.name: getattr(IRIS, f.name) for f in fields(IRIS) if f.init})
    fit(strategy(comm), watched, prefetch=2)
    assert asked == [{"prefetch": 2, "part": (comm.rank, comm.size)}]


def test_begins_after_the_batches_that_are_left_out(comm):
    whole, parts = strategy(comm), strategy(comm)
    assert fit(whole, IRIS).loss[7:] == [
        *fit(parts, IRIS, epochs=2).loss[7:],
        *fit(parts, IRIS, start=2 * IRIS.steps_per_epoch(BATCH)).loss,
    ]
    assert_same_weights(whole, parts)


@pytest.mark.workers(1, 2, 3)
def test_shares_of_an_evaluation_are_summed(comm):
    """Each of 38 rows counts once on any number of ranks, as in one process."""
    judge = build()
    rows = Batch(IRIS.x[:38], IRIS.y[:38])

    def share(weights):
        judge.params[:] = weights
        own = rows.shard(comm.rank, comm.size)
        return {"loss": judge.loss_of(own, rows=5), "rows": len(own)}

    def whole(weights):
        judge.params[:] = weights
        return {"loss": judge.loss_of(rows), "rows": 38}

    options = {"epochs": 2, "every": 3}
    ours = fit(strategy(comm), IRIS, evaluate=share, evaluate_shares=True, **options)
    alone = fit(strategy(comm), IRIS, evaluate=whole, **options)
    assert [each.step for each in ours.evaluations] == [3, 6, 8]
    for one, other in zip(ours.evaluations, alone.evaluations, strict=True):
        assert one.values == pytest.approx(other.values, rel=1e-6)
    assert ours.evaluations == comm.bcast(ours.evaluations)
    assert ours.grad_norm == pytest.approx(alone.grad_norm, nan_ok=True)


@pytest.mark.workers(2)
def test_an_evaluation_that_fails_on_one_rank_or_differs_is_said_on_all(comm):
    def fails(weights):
        if comm.rank:
            raise ZeroDivisionError("here")
        return {}

    with pytest.raises(ZeroDivisionError, match="here"):
        fit(strategy(comm), IRIS, evaluate=fails, evaluate_shares=True)
    with pytest.raises(ValueError, match="expected a share of the same numbers on each"):
        fit(strategy(comm), IRIS, evaluate=lambda _: {f"{comm.rank}": 0}, evaluate_shares=True)
    with pytest.raises(ValueError, match="evaluate_shares differs between the ranks"):
        fit(strategy(comm), IRIS, evaluate=norm, evaluate_shares=comm.rank == 0)


class Text:
    """The smallest data set of sequences: windows of one text, in the order of a `Dataset`."""

    def __init__(self, rows):
        tokens = (np.arange(9 * rows) % 7).reshape(rows, 9)
        self.tokens, self.rows = tokens, Dataset("", tokens, tokens[:, 0], tokens, tokens[:, 0], 7)

    def batches(self, batch_size, epochs, seed, start):
        for batch in self.rows.batches(batch_size, epochs, seed, start):
            sequences = Sequences(self.tokens, batch.row_ids)
            sequences.ends_epoch = batch.ends_epoch
            yield sequences


@pytest.mark.workers(2)
def test_trains_on_sequences(comm):
    torch = pytest.importorskip("torch")
    from nn.torch.model import TorchModel

    net = [torch.nn.Embedding(7, 7), torch.nn.Flatten(0, 1)]
    model = TorchModel(net, input_shape=(8,), seed=1)
    trained = DataParallel(model, SGD(5.0), comm)
    history = train(trained, Text(20), batch_size=6, epochs=10, evaluate=norm)
    assert history.loss[-1] < 0.5 * history.loss[0]
    assert (history.dataset, history.rows, len(history.evaluations)) == ("Text", None, 10)
    assert history.samples[3::4] == [20 * (epoch + 1) for epoch in range(10)]


def test_the_history_is_that_of_rank_0(comm):
    """Each rank of local SGD knows the loss of its own rows."""
    history = fit(strategy(comm, partial(LocalSGD, period=3)), IRIS, every=3, evaluate=norm)
    alone = strategy(comm, partial(LocalSGD, period=3))
    losses = [alone.step(batch) for batch in IRIS.batches(BATCH, EPOCHS, SEED)]
    assert history.loss == comm.bcast(losses)
    assert (losses == history.loss) == (comm.rank == 0)
    assert outcome(history) == comm.bcast(outcome(history))
    assert history.seconds == comm.bcast(history.seconds)
    assert all(before < after for before, after in pairwise(history.seconds))
    assert history.samples_per_second == history.samples[-1] / history.seconds[-1]


@pytest.mark.parametrize("make", [Sequential, DataParallel])
def test_the_norm_of_the_gradient_is_taken_before_each_stop(comm, make):
    by_hand = strategy(comm, make)
    expected = []
    for step, batch in enumerate(IRIS.batches(BATCH, EPOCHS, SEED), 1):
        by_hand.reduce(by_hand.gradients(batch))
        grads = by_hand.model.grads.astype(np.float64)
        expected.append(np.sqrt(np.sum(grads * grads)) if step % 3 == 0 else np.nan)
        by_hand.update()
    history = fit(strategy(comm, make), IRIS, every=3)
    np.testing.assert_allclose(history.grad_norm, expected, rtol=1e-13)


def test_without_a_common_gradient_there_is_no_norm(comm):
    trained = strategy(comm, LocalSGD)
    assert np.isnan(fit(trained, IRIS, every=1).grad_norm).all()


# Evaluation


@pytest.mark.parametrize("every", [1, 5, None])
def test_evaluates_at_every_stop_and_at_the_end(comm, every):
    trained, by_hand = strategy(comm), strategy(comm)
    history = fit(trained, IRIS, every=every, evaluate=norm)
    period = every or IRIS.steps_per_epoch(BATCH)
    expected = []
    for step, batch in enumerate(IRIS.batches(BATCH, EPOCHS, SEED), 1):
        by_hand.step(batch)
        if step % period == 0 or step == STEPS:
            expected.append((step, norm(by_hand.weights())))
    assert [(each.step, each.values) for each in history.evaluations] == expected
    assert [each.seconds for each in history.evaluations] == [
        history.seconds[step - 1] for step, _ in expected
    ]
    assert history.curve("norm") == (
        [each.seconds for each in history.evaluations],
        [values["norm"] for _, values in expected],
    )


@pytest.mark.parametrize("saves", [False, True])
def test_the_clock_stands_at_stops(comm, path, saves):
    """The evaluations sleep for half a second in all, which is no training time."""
    nap = 0.5 / STEPS

    def evaluate(weights):
        time.sleep(nap)
        return norm(weights)

    begin = time.perf_counter()
    asked = {"checkpoint": path} if saves else {}
    history = fit(strategy(comm), IRIS, every=1, evaluate=evaluate, **asked)
    took = time.perf_counter() - begin
    assert len(history.evaluations) == STEPS
    assert all(each.took >= nap for each in history.evaluations)
    assert history.seconds[-1] + sum(each.took for each in history.evaluations) <= comm.bcast(took)
    assert history.seconds[-1] < comm.bcast(took) - 0.5


def test_only_rank_0_evaluates_while_the_others_sleep(comm):
    used = []

    def evaluate(weights):
        used.append(comm.rank)
        time.sleep(0.3)
        return norm(weights)

    begin = time.process_time()
    fit(strategy(comm), IRIS, epochs=1, evaluate=evaluate)
    assert time.process_time() - begin < 0.25
    assert comm.allgather(used) == [[0], *[[]] * (comm.size - 1)]


class NotSent(Exception):
    """An error that cannot be pickled."""

    def __reduce__(self):
        raise TypeError


@pytest.mark.parametrize("error", [ZeroDivisionError("planned"), NotSent("planned")])
def test_what_evaluate_raises_is_raised_on_every_rank(comm, error):
    def evaluate(weights):
        raise error

    with pytest.raises((ZeroDivisionError, RuntimeError), match="planned"):
        fit(strategy(comm), IRIS, evaluate=evaluate)


@pytest.mark.parametrize("found", [None, 0.9, {"accuracy": "good"}, {"accuracy": np.zeros(2)}])
def test_evaluate_returns_numbers_by_name(comm, found):
    with pytest.raises(TypeError, match="expected numbers by name"):
        fit(strategy(comm), IRIS, evaluate=lambda weights: found)


# on_step


def test_each_step_is_told_of(comm):
    told = []
    fit(
        strategy(comm), IRIS, on_step=lambda history: told.append((history.steps, history.loss[-1]))
    )
    assert [steps for steps, _ in told] == list(range(1, STEPS + 1))
    history = fit(strategy(comm), IRIS)
    assert [loss for _, loss in told] == history.loss


def test_a_rank_that_wants_to_end_ends_training_at_the_next_stop(comm):
    def ends(history):
        return history.steps == 4

    on_step = ends if comm.rank == comm.size - 1 else None  # the other ranks hear of it
    history = fit(strategy(comm), IRIS, every=3, evaluate=norm, on_step=on_step)
    assert history.steps == 6
    assert [each.step for each in history.evaluations] == [3, 6]


def test_what_on_step_raises_on_one_rank_is_raised_on_every_rank(comm):
    calls = []

    def on_step(history):
        calls.append(history.steps)
        if comm.rank == comm.size - 1 and history.steps == 4:
            raise KeyError("planned")

    trained = strategy(comm)
    with pytest.raises(KeyError, match="planned"):
        fit(trained, IRIS, every=3, on_step=on_step)
    assert trained.optimizer.steps == 6
    assert calls == list(range(1, 5 if comm.rank == comm.size - 1 else 7))


# Checkpoints


def interrupted(make, path, at, **asked):
    """Train, fail after step `at`, and resume with a new strategy."""

    def fails(history):
        if history.steps == at:
            raise InterruptedError

    first = make()
    with pytest.raises(InterruptedError):
        fit(first, IRIS, checkpoint=path, on_step=fails, **asked)
    first.close()
    resumed = make()
    return resumed, fit(resumed, IRIS, checkpoint=path, **asked)


@pytest.mark.parametrize(
    ("name", "at", "optimizer"),
    [
        *product(BY_NAME, [5], [Adam]),
        *product(["DataParallel", "SharedDataParallel"], [1, 8, STEPS - 1], [scheduled]),
    ],
)
def test_a_resumed_training_equals_one_that_was_not_interrupted(comm, path, name, at, optimizer):
    """Checkpoints come in the middle of an epoch, and between two evaluations."""
    make = partial(strategy, comm, BY_NAME[name], optimizer)
    asked = {"every": 4, "evaluate": norm, "checkpoint_every": 3}
    whole = make()
    expected = fit(whole, IRIS, **asked | {"checkpoint_every": None})
    resumed, history = interrupted(make, path, at, **asked)
    assert outcome(history) == outcome(expected)
    assert_same_weights(resumed, whole)
    for each in (whole, resumed):
        each.close()


def test_resumes_at_the_last_checkpoint_and_no_earlier(comm, path):
    steps_at_evaluations = []

    def evaluate(weights):
        steps_at_evaluations.append(resumed.optimizer.steps)
        if len(steps_at_evaluations) == 8:
            raise InterruptedError
        return {}

    asked = {"checkpoint": path, "checkpoint_every": 3, "every": 1, "evaluate": evaluate}
    resumed = strategy(comm)
    with pytest.raises(InterruptedError):
        fit(resumed, IRIS, **asked)
    resumed = strategy(comm)
    fit(resumed, IRIS, **asked)
    expected = [*range(1, 9), *range(7, STEPS + 1)] if comm.rank == 0 else []
    assert steps_at_evaluations == expected


def test_a_training_that_has_ended_is_not_repeated(comm, path):
    asked = {"every": 5, "evaluate": norm, "checkpoint": path}
    first = strategy(comm)
    history = fit(first, IRIS, **asked)
    again = strategy(comm)
    once_more = fit(again, IRIS, **asked)
    assert outcome(once_more) == outcome(history)
    assert once_more.seconds == history.seconds
    assert_same_weights(again, first)
    longer = strategy(comm)
    more = fit(longer, IRIS, **asked | {"epochs": EPOCHS + 1})
    assert more.loss[:STEPS] == history.loss
    assert more.seconds[:STEPS] == history.seconds
    assert more.steps == STEPS + IRIS.steps_per_epoch(BATCH)
    assert more.seconds[STEPS] > history.seconds[-1]


def test_a_training_that_a_rank_ended_goes_on(comm, path):
    asked = {"every": 2, "evaluate": norm, "checkpoint": path}
    ended, resumed, whole = strategy(comm), strategy(comm), strategy(comm)
    fit(ended, IRIS, on_step=lambda history: history.steps == 3, **asked)
    assert ended.optimizer.steps == 4
    history = fit(resumed, IRIS, **asked)
    path.unlink() if comm.rank == 0 else None
    comm.Barrier()
    assert outcome(history) == outcome(fit(whole, IRIS, **asked))
    assert_same_weights(resumed, whole)


@pytest.mark.workers(2, 3, 4)
@pytest.mark.parametrize("name", ["DataParallel", "SharedDataParallel", "ZeRO-1"])
def test_resumes_on_another_number_of_ranks_to_rounding(comm, path, name):
    few = comm.Split(MPI.UNDEFINED if comm.rank == comm.size - 1 else 0)
    if few != MPI.COMM_NULL:
        first = strategy(few, BY_NAME[name], Adam)
        fit(first, IRIS, every=5, checkpoint=path, on_step=lambda history: history.steps == 5)
        first.close()
        few.Free()
    comm.Barrier()
    resumed = strategy(comm, BY_NAME[name], Adam)
    history = fit(resumed, IRIS, every=5, checkpoint=path)
    oracle = Sequential(build(), Adam())
    expected = fit(oracle, IRIS)
    np.testing.assert_allclose(resumed.weights(), oracle.weights(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(history.loss, expected.loss, rtol=1e-5)
    assert history.workers == comm.size
    resumed.close()


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"seed": SEED + 1}, f"seed={SEED}, not {SEED + 1}"),
        ({"batch_size": 16}, "batch_size=32, not 16"),
        ({"start": 1}, "start=0, not 1"),
        ({"epochs": EPOCHS - 1}, f"epochs={EPOCHS}, more than {EPOCHS - 1}"),
        ({"dataset": replace(IRIS, name="irides")}, "dataset='iris', not 'irides'"),
        ({"dataset": replace(IRIS, x=IRIS.x[:99], y=IRIS.y[:99])}, "rows=.*, not 99"),
    ],
)
def test_a_checkpoint_of_another_training_is_refused(comm, path, asked, said):
    fit(strategy(comm), IRIS, checkpoint=path)
    other = strategy(comm)
    before = other.weights()
    with pytest.raises(
        ValueError, match=rf"is of another training, with {said}: expected the same"
    ):
        fit(other, **{"dataset": IRIS, "checkpoint": path} | asked)
    np.testing.assert_array_equal(other.weights(), before)


def test_a_checkpoint_without_a_history_is_refused_and_one_with_it_can_be_loaded(comm, path):
    trained = strategy(comm)
    save(path, trained, 3)
    with pytest.raises(ValueError, match="has no history"):
        fit(strategy(comm), IRIS, checkpoint=path)
    path = path.with_name("other.npz")
    fit(trained, IRIS, checkpoint=path)
    loaded = strategy(comm)
    assert load(path, loaded) == STEPS
    assert_same_weights(loaded, trained)


@pytest.mark.parametrize("history", [None, b"{", b"[" * 10**5, b"3", b'{"dataset": 3}'])
def test_a_checkpoint_whose_history_is_damaged_is_named(comm, path, history):
    fit(strategy(comm), IRIS, checkpoint=path)
    if comm.rank == 0:
        arrays = checkpoint.read(path)
        if history is None:
            del arrays["history.loss"]
        else:
            arrays["history"] = np.frombuffer(history, np.uint8)
        checkpoint.write(path, arrays)
    comm.Barrier()
    with pytest.raises(ValueError, match=rf"{path}: its history cannot be read"):
        fit(strategy(comm), IRIS, checkpoint=path)


def test_a_checkpoint_of_another_model_is_refused(comm, path):
    fit(strategy(comm), IRIS, checkpoint=path)
    with pytest.raises(ValueError, match="the model has"):
        fit(DataParallel(mlp([4, 3]), momentum(), comm), IRIS, checkpoint=path)


# The history


@pytest.mark.workers(1)
def test_a_history_survives_its_record(comm, tmp_path):
    history = fit(strategy(comm), IRIS, every=5, evaluate=norm)
    history.loss[0] = float("inf")
    back = History.from_dict(json.loads(json.dumps(history.as_dict())))
    assert repr(back) == repr(history)  # a nan is not equal to itself
    assert isinstance(back.evaluations[0], Evaluation)
    assert history.as_dict()["kind"] == "training"
    records_on_disk.RunFile(tmp_path / "run.jsonl", {}).append(history)
    assert repr(records_on_disk.read(tmp_path / "run.jsonl").records) == repr([history])


@pytest.mark.workers(1)
def test_no_step_is_a_history_too(comm):
    history = fit(strategy(comm), IRIS, epochs=0, evaluate=norm)
    assert (history.steps, history.evaluations) == (0, [])
    assert np.isnan(history.samples_per_second)


# Arguments


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"strategy": "DataParallel"}, TypeError, "strategy is str: expected"),
        ({"dataset": [1, 2]}, TypeError, "dataset is list: expected nn.data.Dataset"),
        ({"batch_size": 0}, ValueError, "batch_size=0: expected 1 or more"),
        ({"batch_size": 1.5}, TypeError, "batch_size=1.5: expected a whole number"),
        ({"epochs": -1}, ValueError, "epochs=-1"),
        ({"seed": None}, TypeError, "seed=None"),
        ({"start": -1}, ValueError, "start=-1"),
        ({"start": 10**6}, ValueError, "no more than 1000000 batches"),
        ({"prefetch": -1}, ValueError, "prefetch=-1"),
        ({"every": 0}, ValueError, "every=0: expected 1 or more"),
        ({"evaluate": "accuracy"}, TypeError, "evaluate='accuracy': expected a function"),
        ({"on_step": 3}, TypeError, "on_step=3: expected a function"),
        ({"checkpoint_every": 3}, ValueError, "checkpoint_every without checkpoint"),
        ({"checkpoint": "a/b", "checkpoint_every": 0}, ValueError, "checkpoint_every=0"),
        ({"checkpoint": "no/where.npz"}, FileNotFoundError, "its folder does not exist"),
        ({"checkpoint": 3}, TypeError, "int"),
    ],
)
def test_refused_arguments(comm, arguments, error, said):
    given = {"strategy": strategy(comm), "dataset": IRIS} | arguments
    with pytest.raises(error, match=said):
        fit(**given)


@pytest.mark.workers(2, 3)
def test_arguments_that_differ_between_the_ranks_are_refused(comm):
    with pytest.raises(ValueError, match="seed differs between the ranks"):
        fit(strategy(comm), IRIS, seed=comm.rank)
    with pytest.raises(ValueError, match="every differs between the ranks"):
        fit(strategy(comm), IRIS, every=1 if comm.rank else None)
    with pytest.raises(TypeError, match="expected a function"):
        fit(strategy(comm), IRIS, evaluate=None if comm.rank else 3)
