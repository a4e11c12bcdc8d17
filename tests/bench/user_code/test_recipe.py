"""A recipe, or its parts one by one, is exactly what is tried, or refused in one sentence."""

import sys

import numpy as np
import pytest

from bench.user_code import UserCodeError
from bench.user_code.loader import HIDES_SCALE, Options, load
from nn import SGD, Recipe, mlp
from nn.loss import CROSS_ENTROPY, CrossEntropy, MeanSquaredError
from strategies import Sequential
from tests.support.optimizers import optimizers

pytestmark = pytest.mark.workers(1)

MINE = """
import numpy as np
from nn import SGD, Adam, Batch, Model, Recipe, mlp
from nn.loss import CrossEntropy, MeanSquaredError
three = 3
smooth = CrossEntropy(label_smoothing=0.1)
def sgd(): return SGD(0.2, momentum=0.5)
def adam(): return Adam(0.01)
def still(): return SGD(0.0)
def wild(): return SGD(lambda step: float("inf"))
ONE = SGD(0.1)
def one(): return ONE
def of_torch():
    import torch
    return torch.optim.AdamW([torch.zeros(3, requires_grad=True)])
def broken(): raise KeyError("lr")

def net(): return mlp([3, 4, 2], seed=1)
def rows(): return np.arange(30.0).reshape(10, 3) % 7, np.arange(10) % 2
def train(batches): return net().params.astype(float)
def recipe(): return Recipe(net(), sgd, loss=smooth, reference=train, data=rows)
def bare(): return Recipe(net())
def made(): return Recipe(net(), SGD(0.1))
def weighed(): return Recipe(net(), data=Batch(*rows(), weights=np.arange(10.0)))
def squares(): return Recipe(net(), loss=MeanSquaredError(), data=(rows()[0], rows()[0][:, :2]))
"""


@pytest.fixture
def options(tmp_path):
    """Make options of names in a file of the user's."""
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    yield lambda **names: Options(**{option: f"{path}:{name}" for option, name in names.items()})
    sys.modules.pop("user_code_mine", None)
    sys.path[:] = [entry for entry in sys.path if entry != str(tmp_path)]


@pytest.mark.parametrize("option", ["recipe", "model"])
def test_a_recipe_is_tried_as_it_is(options, option):
    found = load(options(**{option: "recipe"}))
    assert found.net
    assert found.optimizer
    assert found.reference
    assert isinstance(found.net.build("float32").loss, CrossEntropy)
    assert found.net.build("float64").loss.label_smoothing == 0.1
    optimizer = found.optimizer()
    assert (optimizer.lr, optimizer.momentum) == (0.2, 0.5)
    assert optimizer is not found.optimizer()
    assert list(found.optimizers(optimizers(0.1))) == ["recipe"]
    assert found.net.rows
    assert len(found.net.rows()) == 10


def test_its_parts_can_be_given_one_by_one(options):
    found = load(
        options(model="net", optimizer="sgd", loss="smooth", reference="train", data="rows")
    )
    whole = load(options(recipe="recipe"))
    for one in (found, whole):
        assert one.optimizer
        assert one.net
    trainings = [Sequential(one.net.build("float64"), one.optimizer()) for one in (found, whole)]
    for batch in whole.net.batches([4, 3]):
        assert trainings[0].step(batch) == trainings[1].step(batch)
    np.testing.assert_array_equal(*(training.weights() for training in trainings))


def test_what_a_recipe_leaves_out_is_as_usual(options):
    found = load(options(recipe="bare"))
    ours = optimizers(0.1)
    assert found.optimizers(ours) is ours
    assert found.net
    assert found.net.build("float64").loss is CROSS_ENTROPY
    assert (found.reference, found.net.rows) == (None, None)


def test_weights_of_rows_reach_the_batches(options):
    net = load(options(recipe="weighed")).net
    assert net
    (batch,) = net.batches([10])
    assert sorted(batch.weights) == list(range(10))


def test_targets_may_be_of_any_kind_that_the_loss_takes(options):
    net = load(options(recipe="squares")).net
    assert net
    assert isinstance(net.build("float64").loss, MeanSquaredError)


@pytest.mark.parametrize("loss", [MeanSquaredError(), CrossEntropy()])
def test_random_rows_have_targets_that_the_loss_takes(loss):
    from bench.user_code.nets import random_batches

    model = mlp([3, 4, 2], loss=loss)
    (batch,) = random_batches(model, [5])
    assert np.isfinite(Sequential(model, SGD(0.1)).step(batch))


def test_an_optimizer_is_tried_with_nets_of_ours(options):
    found = load(options(optimizer="sgd"))
    assert found
    assert found.net is found.strategy is None
    assert list(found.optimizers(optimizers(0.1))) == ["sgd"]


def test_an_optimizer_that_hides_errors_of_scale_is_joined_by_one_that_does_not(options):
    found = load(options(optimizer="adam"))
    assert list(found.optimizers(optimizers(0.1))) == ["adam", "momentum"]
    assert found.notes == (HIDES_SCALE,)
    assert load(options(optimizer="sgd")).notes == ()


REFUSED = [
    ({"recipe": "net"}, r"net: it returned no recipe; expected nn.Recipe\(model="),
    ({"recipe": "recipe", "model": "net"}, "--model and --recipe both give a model"),
    ({"recipe": "recipe", "optimizer": "sgd"}, "has an optimizer too; expected one of the two"),
    ({"recipe": "recipe", "loss": "smooth"}, "has a loss too; expected one of the two"),
    ({"recipe": "recipe", "data": "rows"}, "has rows too; expected one of the two"),
    (
        {"recipe": "recipe", "reference": "train"},
        "has a training loop too; expected one of the two",
    ),
    ({"recipe": "made"}, r"raised TypeError.* optimizer is an object of type SGD: expected a func"),
    ({"recipe": "three"}, "three is an object of type int; expected a function without arguments"),
    ({"loss": "smooth"}, "--loss gives a loss for your own model: expected --model too"),
    ({"reference": "train"}, "--reference gives a training loop for your own model"),
    ({"model": "net", "reference": "train"}, "expected --optimizer too, the same as in the loop"),
    ({"model": "net", "reference": "three"}, "three is an object of type int; expected a function"),
    ({"model": "net", "loss": "three"}, "three is an object of type int; expected one of nn.loss"),
    ({"model": "net", "loss": "CrossEntropy"}, "CrossEntropy is a class; expected one of nn.loss"),
    ({"model": "net", "loss": "smoooth"}, "defines no smoooth; did you mean smooth"),
    ({"optimizer": "three"}, "three is an object of type int; expected a function without argum"),
    ({"optimizer": "net"}, r"net\(\) returned an object of type Model; expected an optimizer"),
    ({"optimizer": "one"}, "returns the same optimizer at each call.* make it in the function"),
    ({"optimizer": "still"}, "in 3 steps it moved no parameter"),
    ({"optimizer": "wild"}, "in 3 steps it moved parameters to infinity"),
    ({"optimizer": "broken"}, r"broken\(\) raised KeyError at mine.py:16: 'lr'"),
    ({"optimizer": "of_torch"}, r"TorchOptimizer\(lambda params: torch.optim.AdamW\(params"),
]


@pytest.mark.parametrize(("names", "said"), REFUSED)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # infinite steps
def test_what_is_unusable_is_refused(options, names, said):
    with pytest.raises(UserCodeError, match=said):
        load(options(**names))


def test_a_recipe_wants_a_function_that_makes_optimizers():
    with pytest.raises(TypeError, match=r"expected a function without arguments, e.g. lambda: Ad"):
        Recipe(mlp([3, 2]), SGD(0.1))
