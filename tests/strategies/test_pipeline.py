"""Pipelines learn the weights of sequential training to the bit, in every schedule."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mpi4py import MPI

from bench.core.metering import Metered
from nn import SGD, Adam, Batch, Model, mlp
from nn.layers import Linear, Tanh
from nn.layers.embedding import EmbeddingBag
from strategies import Pipeline, Sequential, costs
from strategies.base import Refused
from strategies.sharding import cuts as stage_cuts
from strategies.sharding.schedules import SCHEDULES
from tests.support.optimizers import momentum
from tests.support.oracles import MatchedOrder, assert_trains_like, random_batches
from tests.support.small_nets import DEEP, NETS

every_schedule = pytest.mark.parametrize("schedule", SCHEDULES)


def layered(width: int = 5):
    """Build nine layers: enough for two stages on each of four ranks."""
    return mlp([6, width, 4, width, 3, 3], activation="tanh", dtype="float64", seed=1)


@every_schedule
@pytest.mark.parametrize("rows", [1, 3])
def test_fewer_rows_than_micro_batches(comm, schedule, rows):
    """The last batch of an epoch has as many rows as are left."""
    parallel = Pipeline(layered(), momentum(), comm, 5, schedule)
    oracle = MatchedOrder(layered(), momentum(), 5)
    batches = [*random_batches(layered(), 7, 1), *random_batches(layered(), rows, 2)]
    assert_trains_like(oracle, parallel, batches, comm, tolerance=0)


@every_schedule
@pytest.mark.parametrize("micro_batches", [1, 3, 8])
def test_equals_adding_up_micro_batches_to_the_bit(comm, schedule, micro_batches):
    """8 rows make one micro-batch, three uneven ones, or eight of a row each."""
    parallel = Pipeline(layered(), momentum(), comm, micro_batches, schedule)
    oracle = MatchedOrder(layered(), momentum(), micro_batches)
    assert_trains_like(oracle, parallel, random_batches(layered(), 8), comm, tolerance=0)


@every_schedule
@pytest.mark.parametrize("net", DEEP)
def test_equals_sequential_for_every_net(comm, workers, schedule, net):
    """Interleaved, each rank has two stages if there are layers enough."""
    build = NETS[net]
    chunks = min(2, len(build().layers) // workers) if schedule == "interleaved" else None
    parallel = Pipeline(build(), Adam(1e-2), comm, 3, schedule, chunks=chunks)
    oracle = Sequential(build(), Adam(1e-2))
    assert_trains_like(oracle, parallel, random_batches(build(), 7, steps=2), comm)


@pytest.mark.workers(2)
@pytest.mark.parametrize("cuts", [[1], [2], [5], [8]])
def test_uneven_cuts(comm, cuts):
    """A ReLU or a Linear alone may be a stage."""
    parallel = Pipeline(layered(), momentum(), comm, 3, "1f1b", cuts)
    oracle = MatchedOrder(layered(), momentum(), 3)
    assert_trains_like(oracle, parallel, random_batches(layered(), 8), comm, tolerance=0)


@pytest.mark.workers(2, 3, 4)
def test_a_stage_may_begin_with_a_relu_that_works_in_place(comm, workers):
    def build():
        return mlp([6, 5, 4, 5, 3], dtype="float64", seed=1)

    cuts = [1, 3, 5][: workers - 1]
    parallel = Pipeline(build(), momentum(), comm, 2, "gpipe", cuts)
    oracle = MatchedOrder(build(), momentum(), 2)
    assert_trains_like(oracle, parallel, random_batches(build(), 5), comm, tolerance=0)


@pytest.mark.workers(3)
def test_equals_sequential_in_float32(comm):
    def build():
        return mlp([20, 30, 25, 10], seed=2)

    parallel = Pipeline(build(), SGD(0.1), comm, 4)
    batches = random_batches(build(), 33, steps=5)
    assert_trains_like(Sequential(build(), SGD(0.1)), parallel, batches, comm, tolerance=1e-5)


# Messages


class Synchronous(MPI.Intracomm):
    """Completes no send before its message is being received, whatever its size."""

    def Isend(self, *args, **kwargs):
        return self.Issend(*args, **kwargs)


class Blocking(MPI.Intracomm):
    """Does not even return from a send before its message is being received."""

    def Isend(self, *args, **kwargs):
        self.Ssend(*args, **kwargs)
        return MPI.REQUEST_NULL


@pytest.mark.parametrize(
    ("fault", "schedule"),
    [
        *((Synchronous, schedule) for schedule in SCHEDULES),
        *((Blocking, schedule) for schedule in SCHEDULES if schedule != "interleaved"),
    ],
)
@pytest.mark.deadline(20)
def test_synchronous_sends_do_not_deadlock_it(comm, schedule, fault):
    """The interleaved schedule needs sends that return, as the simulator says too."""
    parallel = Pipeline(layered(), momentum(), fault(comm), 5, schedule)
    oracle = MatchedOrder(layered(), momentum(), 5)
    assert_trains_like(oracle, parallel, random_batches(layered(), 8), comm, tolerance=0)


@pytest.mark.workers(2, 3, 4)
@pytest.mark.deadline(20)
def test_messages_of_others_on_the_communicator_are_not_its_own(comm):
    """Messages of every tag that it might use are sent before the step and received after it."""
    left, right = (comm.rank - 1) % comm.size, (comm.rank + 1) % comm.size
    parallel = Pipeline(layered(), momentum(), comm, 3)
    oracle = MatchedOrder(layered(), momentum(), 3)
    sent = np.full(8 * 5, 7.0)  # no smaller than any of the messages
    tags = range(2 * comm.size)
    requests = [comm.Isend(sent, rank, tag) for rank in {left, right} for tag in tags]
    comm.Barrier()
    assert_trains_like(oracle, parallel, random_batches(layered(), 8), comm, tolerance=0)
    for rank in {left, right}:
        for tag in tags:
            received = np.empty_like(sent)
            comm.Recv(received, rank, tag)
            np.testing.assert_array_equal(received, sent)
    MPI.Request.Waitall(requests)
    parallel.close()
    parallel.close()
    np.testing.assert_array_equal(parallel.weights(), oracle.weights())
    with pytest.raises(ValueError, match="closed"):
        parallel.step(random_batches(layered(), 8)[0])


@every_schedule
@pytest.mark.workers(2, 4)
@pytest.mark.deadline(30)
def test_messages_far_beyond_the_eager_limit(comm, schedule):
    """Messages have half a megabyte; the eager limit is 4 KiB in shared memory, 64 KiB by TCP."""

    def build():
        return mlp([2, *[2**15, 2] * 4, 3], dtype="float64", seed=1)

    parallel = Pipeline(build(), SGD(1e-3), comm, 3, schedule)
    oracle = MatchedOrder(build(), SGD(1e-3), 3)
    batches = random_batches(build(), 6, steps=1)
    assert_trains_like(oracle, parallel, batches, comm, tolerance=0)


@every_schedule
def test_sends_what_the_formula_says(comm, workers, schedule):
    """Activations pass every boundary between ranks once, and their gradient comes back."""
    metered = Metered(comm)
    cuts = {1: [], 2: [3], 3: [2, 5], 4: [2, 4, 7]}[workers]
    if schedule == "interleaved":
        cuts = {1: [4], 2: [2, 4, 6], 3: [1, 2, 4, 6, 7], 4: [1, 2, 3, 4, 5, 6, 7]}[workers]
    parallel = Pipeline(layered(), SGD(0.1), metered, 3, schedule, cuts)
    (batch,) = random_batches(layered(), 8, steps=1)
    metered.record.clear()
    parallel.step(batch)
    assert metered.record.sent == costs.sent_by_pipeline(layered(), cuts, workers, comm.rank, 8)


class Watched:
    """An array that fails on ranks that need not read it."""

    def __init__(self, array, allowed):
        self.array, self.allowed = array, allowed
        self.shape, self.ndim, self.dtype = array.shape, array.ndim, array.dtype
        self.rows_read = 0

    def __getitem__(self, rows):
        assert self.allowed, "this stage does not need to read it"
        self.rows_read += len(self.array[rows])
        return self.array[rows]


@every_schedule
def test_stages_load_only_the_inputs_or_labels_that_they_need(comm, workers, schedule):
    (batch,) = random_batches(layered(), 8, steps=1)
    first, last = comm.rank == 0, comm.rank == workers - 1
    x, y = Watched(batch.x, first), Watched(batch.y, last)
    Pipeline(layered(), momentum(), comm, 3, schedule).step(Batch(x, y))
    assert (x.rows_read, y.rows_read) == (8 * first, 8 * last)


# Cuts


@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=9).flatmap(
        lambda costs: st.tuples(st.just(costs), st.integers(1, len(costs)))
    )
)
@pytest.mark.workers(1)
def test_balanced_is_the_best_of_all_partitions(case):
    costs, stages = case

    def worst(bounds):
        return max(sum(costs[lo:hi]) for lo, hi in pairwise(bounds))

    def partitions(lo, left):
        if left == 1:
            yield [lo, len(costs)]
            return
        for hi in range(lo + 1, len(costs) - left + 2):
            for rest in partitions(hi, left - 1):
                yield [lo, *rest]

    found = stage_cuts.balanced(costs, stages)
    assert found in list(partitions(0, stages))
    assert worst(found) == min(map(worst, partitions(0, stages)))


def test_automatic_cuts_are_the_same_everywhere_and_balance_equal_layers(comm, workers):
    """Eight large layers are equal, and the clock may misjudge one of them at most."""
    model = mlp([256] * 9, dtype="float64")
    found = stage_cuts.choose(model, workers, "auto", comm)
    assert comm.allgather(found) == [found] * workers
    linears = [sum(i % 2 == 0 for i in range(lo, hi)) for lo, hi in pairwise(found)]
    assert max(linears) <= -(-8 // workers) + 1


@pytest.mark.workers(1)
def test_one_stage_is_not_measured(comm, monkeypatch):
    """Measuring takes as long as a step, and here decides nothing."""
    monkeypatch.delattr(stage_cuts, "layer_costs")
    assert stage_cuts.choose(mlp([5, 4, 3]), 1, "auto", comm) == [0, 3]


@pytest.mark.workers(1)
def test_layers_cost_what_they_compute():
    costs = stage_cuts.layer_costs(mlp([512, 512, 8], dtype="float64"))
    assert costs[0] > 3 * costs[2] > 0


@pytest.mark.workers(2, 3)
def test_automatic_cuts_of_a_net_that_takes_word_numbers(comm, workers):
    def build():
        return Model([EmbeddingBag(2, 5), Tanh(), Linear(5, 3)], "float64", input_shape=(6,))

    rng = np.random.default_rng(0)
    batch = Batch(rng.integers(0, 2, (8, 6)), rng.integers(0, 3, 8))
    parallel = Pipeline(build(), momentum(), comm, 2)
    oracle = MatchedOrder(build(), momentum(), 2)
    assert_trains_like(oracle, parallel, [batch], comm, tolerance=0)


class Fussy(Tanh):
    """Fails on rank 0 alone, which alone measures."""

    def forward(self, x):
        raise FloatingPointError("not with these")


@pytest.mark.deadline(10)
@pytest.mark.workers(2, 4)
def test_a_layer_that_fails_as_it_is_measured_is_told_on_every_rank(comm, workers):
    model = Model([*layered().layers[:8], Fussy()], "float64")
    with pytest.raises(ValueError, match=r"FloatingPointError\('not with these'\); give cuts"):
        Pipeline(model, momentum(), comm)
    assert stage_cuts.choose(model, workers, range(1, workers), comm) == [*range(workers), 9]


# State, and bad input


class TwoOfEach(Tanh):
    """Makes two rows of every row, as a language model makes one of every word."""

    def row_shape(self, shape):
        return (shape[0] // 2,)

    def forward(self, x):
        return x.reshape(2 * len(x), -1), None


class OnlyPositive(Tanh):
    """Makes rows as wide as the row with the most positive features, which depends on the data."""

    def forward(self, x):
        return x[:, : (x > 0).sum(axis=1).max()], None


@pytest.mark.workers(2, 3)
@pytest.mark.deadline(10)
@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (TwoOfEach(), r"stage 0, layers 0 to 2, made \(6, 2\) of 3 rows: expected \(3, 2\)"),
        (OnlyPositive(), r"stage 0, layers 0 to 2, made \(3, 2\) of 3 rows: expected \(3, 4\)"),
    ],
)
def test_a_stage_that_makes_something_else_than_was_planned_says_so(comm, workers, layer, message):
    """It says so before it sends; the others then wait, which this test leaves out."""
    width = 2 if isinstance(layer, TwoOfEach) else 4
    layers = [Linear(6, 4), Tanh(), layer, Linear(width, 5), Linear(5, 3)]
    parallel = Pipeline(Model(layers, "float64"), SGD(0.1), comm, 2, cuts=[3, 4][: workers - 1])
    (batch,) = random_batches(layered(), 6, steps=1)
    if comm.rank == 0:
        with pytest.raises(ValueError, match=message):
            parallel.gradients(batch)


def test_resumes_from_the_state_of_sequential_and_back(comm):
    batches = random_batches(layered(), 6, steps=3)
    oracle = MatchedOrder(layered(), momentum(), 3)
    parallel = Pipeline(layered(), momentum(), comm, 3)
    oracle.step(batches[0])
    parallel.load_state(oracle.state())
    parallel.step(batches[1])
    oracle.load_state(parallel.state())
    for strategy in (oracle, parallel):
        strategy.step(batches[2])
    np.testing.assert_array_equal(parallel.weights(), oracle.weights())


@pytest.mark.workers(2)
def test_says_what_was_expected(comm):
    def pipeline(**arguments):
        return Pipeline(layered(), momentum(), comm, **arguments)

    with pytest.raises(Refused, match="2 stages and a net of 1 layers"):
        Pipeline(mlp([3, 2]), momentum(), comm)
    with pytest.raises(Refused, match=r"10 stages and a net of 9 layers.*fewer chunks"):
        pipeline(schedule="interleaved", chunks=5)
    with pytest.raises(ValueError, match="naive, gpipe, 1f1b, interleaved"):
        pipeline(schedule="GPipe")
    with pytest.raises(ValueError, match="micro_batches=0"):
        pipeline(micro_batches=0)
    for arguments in ({"micro_batches": True}, {"schedule": "interleaved", "chunks": 2.0}):
        with pytest.raises(TypeError, match="expected a whole number"):
            pipeline(**arguments)
    pipeline(micro_batches=np.int64(2), schedule="interleaved", chunks=np.int64(2))
    with pytest.raises(ValueError, match="only the interleaved schedule"):
        pipeline(chunks=2)
    with pytest.raises(ValueError, match='expected "auto" or a list'):
        pipeline(cuts="even")
    with pytest.raises(ValueError, match=r'cuts=None: expected "auto" or a list'):
        pipeline(cuts=None)
    for cuts in ([], [0], [9], [3, 6], [-1]):
        with pytest.raises(ValueError, match="expected 1 increasing layer numbers from 1 to 8"):
            pipeline(cuts=cuts)
    with pytest.raises(TypeError, match=r"cuts=\[2\.5\]: expected layer numbers"):
        pipeline(cuts=[2.5])
    with pytest.raises(Refused, match=r"Pipeline expected nn\.Model"):
        Pipeline(object(), momentum(), comm)
