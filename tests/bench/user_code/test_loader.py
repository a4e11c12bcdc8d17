"""User code is loaded, or refused in one sentence that says what to do."""

import sys

import numpy as np
import pytest
from mpi4py import MPI

from bench.user_code import UserCodeError
from bench.user_code.loader import Options, load, load_data, load_model, load_strategy
from bench.user_code.nets import Net
from bench.user_code.registry import runs_silent
from nn import SGD, mlp
from nn.sequences import Sequences
from strategies import DataParallel, Sequential
from tests.support.small_nets import NETS

pytestmark = pytest.mark.workers(1)  # launches in tests/mutants show that ranks agree

MODELS = """
import numpy as np
from mpi4py import MPI
from torch.nn import Conv2d, Dropout, Embedding, Flatten, Linear, Sequential, Tanh
from nn import Batch, Model, cnn, mlp
from nn.layers.embedding import EmbeddingBag
from nn.sequences import Sequences
from nn.torch import TorchModel
from strategies import DataParallel
seven = 7
def plain(): return mlp([3, 4, 2], seed=1)
def image(): return cnn(3, (1, 10, 10))
def module(): return Sequential(Linear(3, 4), Tanh(), Linear(4, 2))
def wrapped(): return TorchModel(module, seed=3)
def noisy(): return Sequential(Linear(3, 4), Dropout(), Linear(4, 2))
def made(): return TorchModel([Linear(3, 4), Dropout(), Linear(4, 2)], seed=3)
def language(): return Sequential(Embedding(7, 6), Linear(6, 7), Flatten(0, 1))
def conv(): return Sequential(Conv2d(1, 2, 3), Flatten())
def shaped(): return conv()
shaped.input_shape = (1, 4, 4)
def misshaped(): return conv()
misshaped.input_shape = 4

def drawn(): return mlp([3, 2], seed=np.random.randint(10**9))
def wordy(): return Model([EmbeddingBag(1, 3)], input_shape=(4,))

def raises(): return 1 / 0
def leaves(): raise SystemExit(3)
def nothing(): pass
def takes(x): return plain()
MODEL = plain()
def same(): return MODEL
RELU = mlp([1, 1, 1]).layers[1]
def same_relu(): return Model([*mlp([3, 4]).layers, RELU, *mlp([4, 2]).layers])
TORCH = wrapped()
def same_in_torch(): return TORCH
def of_same_layers(): return Model(MODEL.layers)
def synchronised(): return TorchModel(module, sync_batch_norm=MPI.COMM_SELF)
def unseeded(): return mlp([3, 2], seed=int(np.random.default_rng().integers(10**9)))
def nan():
    model = plain()
    model.params[:] = np.nan
    return model

def rows(): return np.ones((5, 3)), np.array([0, 1, 1, 0, 1])
def batch(): return Batch(*rows(), index=[4, 0, 1])
def tokens(): return Sequences(np.arange(50).reshape(10, 5) % 7)
def no_rows(): return np.ones((0, 3)), np.zeros(0, int)
def triple(): return 1, 2, 3
def masked(): return np.ma.masked_equal(np.ones((5, 3)), 1), np.ones(5, int)
def wide(): return np.ones((5, 4)), np.array([0, 1, 1, 0, 1])
def many(): return np.ones((5, 3)), np.arange(5)
def pictures(): return np.ones((5, 1, 4, 4)), np.arange(5)

class Nope: pass
class Half:
    def step(self, batch): ...
class Old(DataParallel):
    bounded = False
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(MODELS)
    yield path
    sys.modules.pop("user_code_mine", None)
    if str(tmp_path) in sys.path:
        sys.path.remove(str(tmp_path))


@pytest.mark.parametrize("name", ["plain", "image", "module", "wrapped", "noisy", "made", "shaped"])
def test_any_kind_of_model_is_built_in_both_dtypes_alike(file, name):
    net = load_model(f"{file}:{name}")
    single, double = net.build("float32"), net.build("float64")
    assert (str(single.dtype), str(double.dtype)) == ("float32", "float64")
    np.testing.assert_allclose(single.params, double.params, rtol=1e-6)
    trainings = Sequential(single, SGD(0.1)), Sequential(double, SGD(0.1))
    for batch in net.batches([4, 3]):
        losses = [training.step(batch) for training in trainings]
        assert losses[0] == pytest.approx(losses[1], rel=0.01)  # with the same masks of dropout
    assert double.grads.any()


def test_a_module_keeps_its_own_parameters(file):
    torch = pytest.importorskip("torch")
    net = load_model(f"{file}:module")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        first = sys.modules["user_code_mine"].module()[0].weight
    np.testing.assert_array_equal(net.build("float32").params[:12], first.detach().numpy().ravel())


def test_all_ranks_draw_the_same_wherever_their_generators_are(file):
    starts = []
    for rank in range(2):
        np.random.seed(rank)  # noqa: NPY002
        starts.append(load_model(f"{file}:drawn").build("float64").params)
    np.testing.assert_array_equal(*starts)


def test_global_generators_go_on_as_if_nothing_had_been(file):
    torch = pytest.importorskip("torch")
    np.random.seed(5)  # noqa: NPY002
    torch.manual_seed(5)
    expected = np.random.random(), torch.rand(1).item()  # noqa: NPY002
    np.random.seed(5)  # noqa: NPY002
    torch.manual_seed(5)
    load_model(f"{file}:module")
    assert (np.random.random(), torch.rand(1).item()) == expected  # noqa: NPY002


def test_layers_without_parameters_may_be_the_same_at_each_call(file):
    assert load_model(f"{file}:same_relu").build("float64").params.size == 3 * 4 + 4 + 4 * 2 + 2


def test_nets_of_words_are_given_whole_numbers():
    net = Net("words", lambda dtype: NETS["words"]())
    (batch,) = net.batches([9])
    np.testing.assert_array_equal(batch.x, np.trunc(batch.x))
    assert np.isfinite(net.build("float64").gradients(batch))


def test_rows_are_those_of_the_data(file):
    net = load_model(f"{file}:plain", load_data(f"{file}:rows"))
    (batch,) = net.batches([5])
    assert sorted(batch.y) == [0, 0, 1, 1, 1]
    with pytest.raises(ValueError, match=r"batch of 6 rows: expected at most 5"):
        net.batches([6])
    assert load_model(f"{file}:conv", load_data(f"{file}:pictures"))


def test_named_sets_and_files_are_rows_too(file):
    assert load_data("iris")().x.shape[1:] == (4,)
    np.savez(file.with_suffix(".npz"), x=np.eye(20), y=np.arange(20) % 2)
    rows = load_data(str(file.with_suffix(".npz")))()
    assert rows.x.shape[1:] == (20,)
    assert set(rows.y) == {0, 1}


def test_a_batch_is_the_rows_that_it_holds(file):
    assert load_data(f"{file}:batch")().y.tolist() == [1, 0, 1]


def test_rows_of_tokens_are_for_a_language_model(file):
    rows = load_data(f"{file}:tokens")
    np.testing.assert_array_equal(rows().y[:4], [1, 2, 3, 4])
    net = load_model(f"{file}:language", rows)
    (batch,) = net.batches([3])
    assert isinstance(batch, Sequences)
    assert (len(batch), batch.global_count) == (3, 12)


def test_a_strategy_may_have_arguments_bound(file):
    file.write_text(
        "from functools import partial\nfrom strategies import DataParallel\n"
        "Two = partial(DataParallel, buckets=2)\n"
    )
    name, build = load_strategy(f"{file}:Two")
    assert name == "Two"
    assert runs_silent(build)
    assert isinstance(build(mlp([3, 3, 2]), SGD(0.1), MPI.COMM_SELF), DataParallel)


REFUSED = {
    load_model: [
        ("nowhere.py:net", "there is no file nowhere.py"),
        ("{file}", "expected path/to/file.py:factory"),
        ("{file}:plian", "defines no plian; did you mean plain"),
        ("{file}:zzzzzz", "defines no zzzzzz; expected one of .*plain"),
        ("{file}:seven", "seven is an object of type int; expected a function without arguments"),
        ("{file}:raises", r"raises\(\) raised ZeroDivisionError at mine.py:27: division by zero"),
        ("{file}:leaves", r"raised SystemExit at mine.py:28: 3"),
        ("{file}:nothing", "returned None; expected a nn.Model"),
        ("{file}:takes", "raised TypeError.* missing 1 required"),
        (
            "{file}:unseeded",
            "other parameters at each call.* seed the generator that it draws from",
        ),
        ("{file}:same", "the same layers at each call.* make them in the function"),
        ("{file}:same_in_torch", "the same layers at each call"),
        ("{file}:of_same_layers", "the same layers at each call"),
        ("{file}:synchronised", "has sync_batch_norm, .*your strategy can make one that has it"),
        ("{file}:nan", "loss of the first step is not finite"),
        ("{file}:misshaped", r"TypeError: input_shape=4: expected the shape of one row, e.g. \(4,"),
        (
            "{file}:wordy",
            "on random rows, as there is no --data, raised ValueError: .* has no row",
        ),
        ("{file}:conv", r"write `conv.input_shape = \(1, 28, 28\)`"),
    ],
    load_strategy: [
        ("{file}:Nope", "Nope is a class without step, weights, close; expected a class with"),
        ("{file}:Half", "Half is a class without weights, close"),
        ("{file}:plain", "plain is a function; expected a class"),
        ("{file}:seven", "seven is an object of type int; expected a class"),
        ("nowhere.py:Mine", "there is no file"),
        ("{file}:Old", "Old has the attribute `bounded`, which is called `runs_silent` since 0.2"),
    ],
    load_data: [
        ("nosuch", "no such data set; expected one of .*iris"),
        ("nosuch.npz", "no such file"),
        ("{file}:seven", r"got an object of type int; expected \(x, y\)"),
        ("{file}:triple", r"expected \(x, y\)"),
        ("{file}:no_rows", "no rows; expected at least one"),
        ("{file}:masked", "masked"),
    ],
}


@pytest.mark.parametrize(
    ("load", "argument", "said"),
    [(load, *case) for load, cases in REFUSED.items() for case in cases],
)
def test_what_is_unusable_is_refused(file, load, argument, said):
    with pytest.raises(UserCodeError, match=said):
        load(argument.format(file=file))


@pytest.mark.parametrize("rows", ["wide", "many"])
def test_rows_that_the_model_cannot_take(file, rows):
    with pytest.raises(UserCodeError, match="training on the rows of --data raised ValueError"):
        load_model(f"{file}:plain", load_data(f"{file}:{rows}"))


@pytest.mark.parametrize("text", ["1 = 2", "import numpyy", "raise OSError('x')"])
def test_a_file_that_cannot_be_imported(file, text):
    file.write_text(text)
    with pytest.raises(UserCodeError, match=r"importing .*mine.py raised (Syntax|Module|OS)"):
        load_strategy(f"{file}:Mine")


def test_data_without_a_model():
    with pytest.raises(UserCodeError, match="expected --model too"):
        load(Options(data="iris"))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("plain", "plain is a numpy net: expected --device cpu, not nowhere"),
        ("wrapped", "--device nowhere raised ValueError: device='nowhere': expected one of cpu"),
    ],
)
def test_a_model_is_tried_on_the_device_when_it_is_loaded(file, name, said):
    with pytest.raises(UserCodeError, match=said):
        load(Options(model=f"{file}:{name}"), ["nowhere"])
