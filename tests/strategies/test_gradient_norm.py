"""The norm of the gradient, of which ranks hold parts, and clipping by it."""

import math

import numpy as np
import pytest

from nn import SGD, Adam
from nn.optim.vector import CHUNK
from strategies import DataParallel, Hogwild, LocalSGD, Pipeline, Sequential
from strategies.base import WANTED_STEPS, Refused
from strategies.gradient_norm import norm
from tests.support.exact import EXACT, OF_OWN_LOSS
from tests.support.oracles import assert_trains_like, random_batches
from tests.support.small_nets import NETS

ALL = {**EXACT, **{n: e for n, e in OF_OWN_LOSS.items() if not n.startswith("LocalSGD")}}
UNEVEN = 7


def gradient(model, batch):
    model.gradients(batch)
    return np.array(model.grads)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("net", ["four_tanh", "cnn", "residual"])
@pytest.mark.parametrize("order", [2.0, math.inf])
def test_every_rank_has_the_norm_of_the_whole_gradient(comm, name, net, order):
    """Each element counts once: slices, stages, and biases that several ranks hold."""
    (batch,) = random_batches(NETS[net](), UNEVEN, steps=1)
    expected = np.linalg.norm(gradient(NETS[net](), batch), order)
    try:
        strategy = ALL[name](NETS[net](), SGD(0.1, norm_type=order), comm)
    except Refused as refusal:
        pytest.skip(str(refusal))
    strategy.step(batch)
    found = strategy.grad_norm()
    assert found == pytest.approx(expected, rel=1e-12)
    assert comm.allgather(found) == [found] * comm.size
    assert strategy.grad_norm() == found
    strategy.close()


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("net", ["four_tanh", "cnn"])
def test_clipping_is_by_the_norm_of_the_whole_gradient(comm, name, net):
    """The limit is met in every step, so a norm of a part of the gradient shows at once."""

    def clipped():
        return SGD(0.1, momentum=0.9, clip_norm=0.05)

    batches = random_batches(NETS[net](), UNEVEN)
    oracle = Sequential(NETS[net](), clipped())
    try:
        strategy = ALL[name](NETS[net](), clipped(), comm)
    except Refused as refusal:
        pytest.skip(str(refusal))
    assert_trains_like(oracle, strategy, batches, comm, own_loss=name in OF_OWN_LOSS)
    assert oracle.grad_norm() > 0.05
    assert strategy.grad_norm() == pytest.approx(oracle.grad_norm(), rel=1e-11)
    strategy.close()


@pytest.mark.workers(2, 3, 4)
def test_the_norm_does_not_depend_on_where_a_pipeline_is_cut(comm):
    """Cuts are measured anew in each run, and a run that clips has to resume bit for bit."""
    net = NETS["four_tanh"]
    (batch,) = random_batches(net(), UNEVEN, steps=1)
    norms = set()
    for first in (1, 2, 3):
        cuts = [first + i for i in range(comm.size - 1)]
        strategy = Pipeline(net(), SGD(0.1), comm, 1, cuts=cuts)
        strategy.step(batch)
        norms.add(strategy.grad_norm())
        strategy.close()
    assert len(norms) == 1


def test_a_norm_that_nobody_asked_for_is_not_taken(comm):
    """SGD works in the memory of the gradient, and a norm that is not there must not be made up."""
    net = NETS["four_tanh"]
    (batch,) = random_batches(net(), UNEVEN, steps=1)
    strategy, adam = (DataParallel(net(), optimizer(0.1), comm) for optimizer in (SGD, Adam))
    for _ in range(WANTED_STEPS):
        strategy.step(batch)
    strategy.grad_norm()
    for each in (strategy, adam):
        for _ in range(WANTED_STEPS + 1):
            each.step(batch)
    with pytest.raises(ValueError, match="the norm of this step was not taken"):
        strategy.grad_norm()
    assert adam.grad_norm() > 0  # the gradient is still there
    strategy.step(batch)
    found = strategy.grad_norm()
    plain = net()
    plain.params[:] = strategy.weights()
    strategy.want_grad_norm()
    strategy.step(batch)
    expected = np.linalg.norm(gradient(plain, batch))
    assert strategy.grad_norm() == pytest.approx(expected, rel=1e-12) != found


@pytest.mark.parametrize("make", [LocalSGD, Hogwild])
def test_ranks_with_gradients_of_their_own_have_no_common_norm(comm, make):
    strategy = make(NETS["four_tanh"](), SGD(0.1), comm)
    (batch,) = random_batches(NETS["four_tanh"](), UNEVEN, steps=1)
    strategy.step(batch)
    with pytest.raises(Refused, match="there is no common"):
        strategy.grad_norm()
    strategy.close()


@pytest.mark.workers(1)
def test_before_the_first_step_there_is_no_norm(comm):
    with pytest.raises(ValueError, match="no step has been taken"):
        Sequential(NETS["four_tanh"](), SGD(0.1)).grad_norm()


@pytest.mark.workers(1)
def test_norms_are_summed_in_float64():
    """In float32 this sum of squares would stop growing at 2**24."""
    many = np.ones(2**24 + 2 * CHUNK, np.float32)
    assert norm([(0, many)]) == math.sqrt(len(many))
    assert norm([]) == norm([], math.inf) == 0
    assert norm([(0, np.array([3.0])), (1, np.array([-4.0]))], places=2) == 5
    assert norm([(0, np.array([3.0])), (1, np.array([-4.0]))], math.inf, places=2) == 4


@pytest.mark.parametrize("order", [2.0, math.inf])
def test_a_number_that_is_not_finite_on_one_rank_is_known_on_all(comm, order):
    """The maximum of MPI need not be NaN, and a rank that decides alone trains on alone."""
    own = np.array([math.nan if comm.rank == comm.size - 1 else 1.0])
    assert math.isnan(norm([(0, own)], order, comm))
