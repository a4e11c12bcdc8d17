"""LocalSGD equals DataParallel, Sequential or a simulation exactly, each where it should."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nn import SGD, Adam, Batch, data, mlp
from strategies import DataParallel, LocalSGD, Sequential
from tests.support.optimizers import OPTIMIZERS
from tests.support.oracles import STEP_TOLERANCE, random_batches
from tests.support.small_nets import small_mlp

LINEAR = ("sgd", "momentum", "nesterov", "decay")
"""Optimizers whose step is linear in the gradient."""


def uneven_batches():
    """Make batches of 13, 9 and 2 rows: shards are uneven in changing proportions, or empty."""
    model = small_mlp()
    shapes = [(13, 3), (2, 2), (9, 3)]
    return [b for seed, (n, k) in enumerate(shapes) for b in random_batches(model, n, k, seed)]


def train(strategy, batches):
    for batch in batches:
        strategy.step(batch)
    return strategy.weights()


def distance(weights, expected):
    """Return the largest difference relative to the largest weight."""
    start = small_mlp().params
    assert np.abs(expected - start).max() > 1e-2, "the parameters hardly moved"
    return np.abs(weights - expected).max() / np.abs(expected).max()


def simulate(n, batches, make, period, warmup=0, outer=None):
    """Run LocalSGD on n ranks in one process, written from the papers a second time."""
    models = [small_mlp() for _ in range(n)]
    optimizers = [make() for _ in range(n)]
    rows = np.zeros(n)
    since = 0
    for i, batch in enumerate(batches):
        if i < warmup:
            parts = []
            for k, model in enumerate(models):
                model.gradients(batch.shard(k, n))
                parts.append(model.grads.copy())
            for model, optimizer in zip(models, optimizers):
                optimizer.step(model.params, np.sum(parts, axis=0))
            continue
        if not since:
            start = models[0].params.copy()
        for k, (model, optimizer) in enumerate(zip(models, optimizers)):
            x, y = batch.part(k, n)
            rows[k] += len(y)
            if len(y):
                model.gradients(Batch(x, y))
            else:
                model.grads[:] = 0
            optimizer.step(model.params, model.grads)
        since += 1
        if since == period:
            mean = np.average([m.params for m in models], axis=0, weights=rows)
            if outer:
                outer.step(start, start - mean)
                mean = start
            for model in models:
                model.params[:] = mean
            for name in optimizers[0].state:
                state = np.average([o.state[name] for o in optimizers], axis=0, weights=rows)
                for optimizer in optimizers:
                    optimizer.state[name] = state.copy()
            rows[:] = since = 0
    if not since:
        return models[0].params
    return np.average([m.params for m in models], axis=0, weights=rows)


@pytest.mark.parametrize("optimizer", LINEAR)
def test_period_1_equals_data_parallel(comm, optimizer):
    make, batches = OPTIMIZERS[optimizer], uneven_batches()
    weights = train(LocalSGD(small_mlp(), make(), comm, period=1), batches)
    expected = train(DataParallel(small_mlp(), make(), comm), batches)
    assert distance(weights, expected) <= STEP_TOLERANCE


@pytest.mark.workers(2, 3, 4)
def test_period_1_does_not_equal_data_parallel_with_adam(comm):
    """Negative control: the mean of Adam's steps is not Adam's step on the mean."""
    batches = uneven_batches()
    weights = train(LocalSGD(small_mlp(), Adam(1e-2), comm, period=1), batches)
    expected = train(DataParallel(small_mlp(), Adam(1e-2), comm), batches)
    assert distance(weights, expected) > 1e-3


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("period", [1, 3, "end"])
def test_the_same_rows_on_every_rank_equal_sequential(comm, optimizer, period):
    make = OPTIMIZERS[optimizer]
    batches = random_batches(small_mlp(), 5, steps=7)
    repeated = [Batch(np.tile(b.x, (comm.size, 1)), np.tile(b.y, comm.size)) for b in batches]
    weights = train(LocalSGD(small_mlp(), make(), comm, period=period), repeated)
    expected = train(Sequential(small_mlp(), make()), batches)
    assert distance(weights, expected) <= STEP_TOLERANCE


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("warmup", [0, 2])
@pytest.mark.parametrize("outer", [None, lambda: SGD(0.7, momentum=0.9, nesterov=True)])
def test_period_3_equals_a_simulation_in_one_process(comm, optimizer, warmup, outer):
    """After eight steps, only `weights` averages the last two."""
    make, make_outer = OPTIMIZERS[optimizer], outer or (lambda: None)
    weights = train(LocalSGD(small_mlp(), make(), comm, 3, warmup, make_outer()), uneven_batches())
    expected = simulate(comm.size, uneven_batches(), make, 3, warmup, make_outer())
    assert distance(weights, expected) <= STEP_TOLERANCE


@settings(max_examples=25)
@given(rows=st.lists(st.integers(1, 20), min_size=1, max_size=5), seed=st.integers(0, 99))
def test_averaging_preserves_the_mean_weighted_by_rows(comm, rows, seed):
    model = small_mlp()
    local = LocalSGD(model, SGD(0.1, momentum=0.9), comm, period="end")
    seen = 0
    for i, n in enumerate(rows):
        batch = random_batches(model, n, 1, seed + i)[0]
        local.step(batch)
        seen += len(batch.shard(comm.rank, comm.size))
    share = np.array(comm.allgather(seen)) / sum(rows)

    def total(vector):
        return share @ np.array(comm.allgather(vector.copy()))

    velocity = local.optimizer.state["velocity"]
    before = total(model.params), total(velocity)
    announced = local.weights()
    local.synchronise()
    for vector, mean in zip((model.params, velocity), before):
        np.testing.assert_allclose(vector, mean, rtol=0, atol=1e-14)
        np.testing.assert_allclose(total(vector), mean, rtol=0, atol=1e-14)
    np.testing.assert_array_equal(model.params, announced)


@pytest.mark.workers(2, 3, 4)
def test_ranks_are_equal_after_an_average_and_differ_between(comm):
    local = LocalSGD(small_mlp(), SGD(0.1, momentum=0.9), comm, period=3)
    for i, batch in enumerate(random_batches(local.model, 4 * comm.size + 1, 7), start=1):
        local.step(batch)
        first, *others = comm.allgather(local.model.params.copy())
        equal = [np.array_equal(first, other) for other in others]
        assert equal == [i % 3 == 0] * len(others), f"step {i}"


def test_outer_sgd_of_rate_1_is_plain_averaging(comm):
    batches = uneven_batches()
    plain, outer = (
        LocalSGD(small_mlp(), SGD(0.1, momentum=0.9), comm, 2, outer=o) for o in (None, SGD(1.0))
    )
    assert distance(train(outer, batches), train(plain, batches)) <= STEP_TOLERANCE


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_warm_up_is_synchronous(comm, optimizer):
    """This holds for every optimizer, Adam too, and for the loss."""
    batches = uneven_batches()
    local = LocalSGD(small_mlp(), OPTIMIZERS[optimizer](), comm, 3, warmup=len(batches))
    parallel = DataParallel(small_mlp(), OPTIMIZERS[optimizer](), comm)
    for batch in batches:
        assert local.step(batch) == parallel.step(batch)
    np.testing.assert_array_equal(local.model.params, parallel.model.params)


def test_an_epoch_ends_with_an_average(comm):
    iris = data.load("iris")
    steps = iris.steps_per_epoch(50)
    of_epoch, of_steps = (
        LocalSGD(mlp([4, 8, 3], dtype="float64"), SGD(0.1, momentum=0.9), comm, period)
        for period in ("epoch", steps)
    )
    for batch in iris.batches(50, epochs=3):
        assert of_epoch.step(batch) == of_steps.step(batch)
    np.testing.assert_array_equal(of_epoch.model.params, of_steps.model.params)
    if comm.size > 1:
        start = mlp([4, 8, 3], dtype="float64").params
        assert np.abs(of_epoch.model.params - start).max() > 1e-2


def test_looking_at_the_weights_changes_nothing(comm):
    watched, unwatched = (LocalSGD(small_mlp(), SGD(0.1), comm, 3) for _ in range(2))
    for batch in uneven_batches():
        watched.step(batch)
        unwatched.step(batch)
        watched.weights()
        np.testing.assert_array_equal(watched.model.params, unwatched.model.params)


def test_the_loss_is_that_of_the_rows_of_the_rank(comm):
    local = LocalSGD(small_mlp(), SGD(0.1), comm, 3)
    for batch in random_batches(local.model, 3, 2):
        x, y = batch.part(comm.rank, comm.size)
        twin = small_mlp()
        twin.params[:] = local.model.params
        expected = twin.gradients(Batch(x, y)) if len(y) else np.nan
        np.testing.assert_equal(local.step(batch), expected)


@pytest.mark.parametrize("outer", [None, lambda: SGD(0.7, momentum=0.9)])
def test_a_resumed_run_goes_on_to_the_bit(comm, outer):
    def build():
        return LocalSGD(small_mlp(), Adam(1e-2), comm, 3, outer=outer and outer())

    batches = uneven_batches()
    whole, resumed = build(), build()
    train(whole, batches[:5])
    resumed.load_state(whole.state())
    np.testing.assert_array_equal(train(resumed, batches[5:]), train(whole, batches[5:]))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"period": 0}, ValueError, "period=0: expected 1 or more"),
        ({"period": 2.5}, TypeError, "period=2.5"),
        ({"period": "week"}, ValueError, '"epoch" or "end"'),
        ({"warmup": -1}, ValueError, "warmup=-1"),
        ({"outer": 0.7}, TypeError, "outer=0.7: expected an nn.SGD"),
        ({"outer": SGD(1.0), "period": "end"}, ValueError, "would not act"),
    ],
)
def test_wrong_arguments_say_what_was_expected(comm, options, error, message):
    with pytest.raises(error, match=message):
        LocalSGD(small_mlp(), SGD(0.1), comm, **options)


def trained(comm, outer):
    local = LocalSGD(small_mlp(), SGD(0.1), comm, outer=outer)
    train(local, uneven_batches()[:2])
    return local


def without_outer(comm):
    return trained(comm, None).state()


def of_another_kind(comm):
    return trained(comm, Adam()).state()


def cut_short(comm):
    state = trained(comm, SGD(1.0, momentum=0.9)).state()
    return {k: v[:-1] if k == "outer.velocity" else v for k, v in state.items()}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (without_outer, "without outer"),
        (of_another_kind, r"outer optimizer keeps \['velocity'\]"),
        (cut_short, r"'outer.velocity' of shape \(\d+,\): the model has \d+ parameters"),
    ],
)
def test_a_state_of_another_outer_optimizer_is_refused_and_changes_nothing(comm, make, message):
    local = LocalSGD(small_mlp(), SGD(0.1), comm, outer=SGD(1.0, momentum=0.9))
    with pytest.raises(ValueError, match=message):
        local.load_state(make(comm))
    np.testing.assert_array_equal(local.weights(), small_mlp().params)
    assert local.optimizer.steps == local.outer.steps == 0


def test_the_outer_optimizer_may_have_groups(comm):
    """It moves all parameters, so each has the settings of its group."""
    outer = SGD(1.0, groups=[("*.bias", {"lr": 0.0})])
    model = mlp([6, 5, 3], dtype="float64")
    strategy = LocalSGD(model, SGD(0.1), comm, period=2, outer=outer)
    before = strategy.weights()
    for batch in random_batches(model, 6, steps=2):
        strategy.step(batch)
    moved = strategy.weights() != before
    for parameter in strategy.parameters:
        own = moved[parameter.start : parameter.stop]
        assert own.any() != parameter.name.endswith("bias")
