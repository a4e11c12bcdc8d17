"""What cannot be wrapped or cut is refused, with the reason, before anything is trained."""

import warnings
from functools import partial
from types import MethodType, SimpleNamespace

import numpy as np
import pytest
import torch
from mpi4py import MPI
from torch import nn as tnn

from nn.sequences import Sequences
from nn.torch.model import TorchModel
from strategies import Pipeline, Sequential
from strategies.base import Refused
from tests.nn.torch.nets import Block
from tests.support.optimizers import momentum
from tests.support.oracles import assert_trains_like, random_batches


def weight_norm():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return torch.nn.utils.weight_norm(tnn.Linear(3, 2))


class Less(tnn.Module):
    """Each row minus the mean of all."""

    def forward(self, x):
        return x - x.mean(dim=0)


class Ragged(tnn.Module):
    """As many features as the row with most non-zero features has."""

    def forward(self, x):
        return x[:, : int((x != 0).sum(dim=1).max())]


class Tagger(tnn.Module):
    """An LSTM that treats rows as places in a sequence."""

    def __init__(self):
        super().__init__()
        self.words, self.lstm = tnn.Embedding(9, 4), tnn.LSTM(4, 4)

    def forward(self, x):
        return self.lstm(self.words(x))[0]


class Gated(tnn.Module):
    """x + gate * attention(x), which treats rows as places in a sequence; the gate begins near 0.

    Bachlechner et al., "ReZero is all you need" (2020).
    """

    def __init__(self, gate):
        super().__init__()
        self.gate = tnn.Parameter(torch.tensor(gate))
        self.attention = tnn.MultiheadAttention(4, 1)

    def forward(self, x):
        return x + self.gate * self.attention(x, x, x)[0]


class LessInTraining(Less):
    def forward(self, x):
        return super().forward(x) if self.training else x


class Shifted(tnn.BatchNorm1d):
    def forward(self, x):
        return super().forward(x) + 1


class Across(tnn.Module):
    """Dropout of a sequence whose places come first."""

    def forward(self, x):
        return tnn.functional.dropout(x.transpose(0, 1)).transpose(0, 1)


class Packed(tnn.Module):
    """An LSTM with dropout of packed sequences."""

    def __init__(self):
        super().__init__()
        self.lstm = tnn.LSTM(4, 4, 2, dropout=0.5, batch_first=True)

    def forward(self, x):
        rnn = tnn.utils.rnn
        packed = rnn.pack_padded_sequence(x, [x.shape[1]] * len(x), batch_first=True)
        return rnn.pad_packed_sequence(self.lstm(packed)[0], batch_first=True)[0]


class Viewed(tnn.Module):
    def forward(self, x):
        return x.view(len(x), -1)


def with_hook(module):
    module.register_forward_hook(lambda module, inputs, output: output + 1)
    return module


def one_memory():
    net = tnn.Sequential(tnn.Linear(4, 4), tnn.Linear(4, 4))
    net[1].weight.data = net[0].weight.data
    return net


def one_buffer():
    net = tnn.Sequential(tnn.BatchNorm1d(4), tnn.BatchNorm1d(4))
    net[1].running_mean = net[0].running_mean
    return net


def patched(module):
    """Replace `forward` in this one object."""
    module.forward = MethodType(lambda self, x: type(self).forward(self, x) + 1, module)
    return module


SYNCHRONISED = {"input_shape": (4,), "sync_batch_norm": MPI.COMM_SELF}


OF_TWO = SimpleNamespace(Allreduce=MPI.COMM_SELF.Allreduce, size=2)


class Pair(tnn.Module):
    def forward(self, x):
        return x, x


class Total(tnn.Module):
    def forward(self, x):
        return x.sum()


class Raw(tnn.Module):
    def __init__(self):
        super().__init__()
        self.weight = tnn.Parameter(torch.ones(4))

    def forward(self, x):
        return x * self.weight


@pytest.mark.workers(1)
@pytest.mark.parametrize(
    ("modules", "arguments", "error", "message"),
    [
        (3, {}, TypeError, "expected a torch.nn.Sequential"),
        ([tnn.Linear(3, 2), np.tanh], {}, TypeError, "list of modules"),
        ([], {}, ValueError, "no layers"),
        (one_memory(), {}, ValueError, "two parameters in the same memory: expected one"),
        (one_buffer(), {"input_shape": (4,)}, ValueError, "layers share no buffers"),
        (tnn.Linear(3, 2).half(), {}, ValueError, r"float16: expected all float32 .* dtype="),
        (
            [tnn.Linear(3, 2), tnn.Linear(2, 2).double()],
            {},
            ValueError,
            "float32, float64: expected all",
        ),
        (tnn.Linear(3, 2), {"dtype": "float16"}, ValueError, "expected one of float32, float64"),
        (weight_norm(), {}, ValueError, "cannot be copied: .*parametrizations in the place of"),
        (Less(), {"input_shape": (4,)}, ValueError, r"Less\(\) mixes rows of shape \(4,\): of two"),
        (Ragged(), {"input_shape": (9,)}, ValueError, "mixes rows"),
        (Tagger(), {"input_shape": (5,)}, ValueError, "mixes rows"),
        (
            tnn.TransformerEncoderLayer(4, 1, 8, dropout=0.0),
            {"input_shape": (5, 4)},
            ValueError,
            r"TransformerEncoderLayer\(...\) mixes rows",
        ),
        (
            [tnn.Conv2d(2, 4, 3), tnn.Flatten()],
            {"input_shape": (28, 28)},
            ValueError,
            r"layer 0: Conv2d\(.*\) cannot take rows of shape \(28, 28\)",
        ),
        (tnn.LazyLinear(3), {}, ValueError, "weight has no shape yet"),
        (
            tnn.LazyBatchNorm1d(affine=False),
            {},
            ValueError,
            "running_mean has no shape yet: call the lazy module on rows first",
        ),
        (tnn.Conv2d(1, 1, 3), {}, ValueError, r"input_shape=\.\.\. of one row"),
        (tnn.Linear(3, 2), {"input_shape": (4,)}, ValueError, r"rows of shape \(4,\)"),
        (Pair(), {"input_shape": (4,)}, ValueError, "makes tuple of two rows"),
        (Total(), {"input_shape": (4,)}, ValueError, r"makes shape \(\) of two rows"),
        (Raw(), {"input_shape": (4,), "seed": 0}, ValueError, "no reset_parameters"),
        (tnn.Linear(3, 2), {"compute": "float16"}, ValueError, 'expected None, or "bfloat16"'),
        (
            tnn.Linear(3, 2),
            {"compute": "bfloat16", "dtype": "float64"},
            ValueError,
            "parameters of float64",
        ),
        (tnn.Linear(3, 2), {"seed": 1.5}, TypeError, "seed=1.5"),
        (tnn.Linear(3, 2), {"params": np.zeros(3)}, ValueError, "params"),
        (tnn.Linear(3, 2), {"sync_batch_norm": True}, TypeError, "communicator"),
        (lambda: Gated(0.0), {"input_shape": (3, 4)}, ValueError, "mixes rows"),
        (lambda: Gated(1e-6), {"input_shape": (3, 4)}, ValueError, "mixes rows"),
        (
            lambda: Gated(0.02),  # less than bfloat16 rounds
            {"input_shape": (3, 4), "compute": "bfloat16"},
            ValueError,
            "mixes rows",
        ),
        (LessInTraining(), {"input_shape": (4,)}, ValueError, "mixes rows"),
        (
            Across(),
            {"input_shape": (3, 4)},
            ValueError,
            r"drops units of a tensor of shape \(3, 2, 4\) .* rows in its first dimension",
        ),
        (tnn.Dropout1d(), {"input_shape": (4,)}, ValueError, r"of shape \(1, 2, 4\) made of two"),
        (
            Packed(),
            {"input_shape": (3, 4)},
            ValueError,
            "lstm with dropout=0.5 of packed sequences",
        ),
        (
            Shifted(4),
            SYNCHRONISED,
            ValueError,
            r"cannot replace Shifted\(4.*BatchNorm1d to 3d them",
        ),
        (with_hook(tnn.BatchNorm1d(4)), SYNCHRONISED, ValueError, "themselves, without hooks"),
        (patched(tnn.BatchNorm1d(4)), SYNCHRONISED, ValueError, "themselves, without hooks"),
        (
            [tnn.BatchNorm1d(4), Viewed()],
            {"input_shape": (4,), "sync_batch_norm": OF_TWO},
            ValueError,
            r"take 0 rows .*flatten\(x, 1\)",
        ),
        (tnn.Embedding(9, 4, max_norm=1.0), {"input_shape": (4,)}, ValueError, "max_norm=None"),
        (
            tnn.EmbeddingBag(9, 4, scale_grad_by_freq=True),
            {"input_shape": (4,)},
            ValueError,
            "expected scale_grad_by_freq=False",
        ),
    ],
)
def test_what_cannot_be_wrapped_is_refused(modules, arguments, error, message):
    with pytest.raises(error, match=message):
        TorchModel(modules, **arguments)


@pytest.mark.workers(1)
def test_where_no_rank_can_be_without_rows_modules_need_not_take_none():
    model = TorchModel([tnn.BatchNorm1d(4), Viewed(), tnn.Linear(4, 3)], **SYNCHRONISED)
    assert np.isfinite(model.gradients(*random_batches(model, 4, steps=1)))


@pytest.mark.workers(1)
def test_parameters_without_reset_are_taken_from_a_function():
    model = TorchModel(lambda: [Raw(), tnn.Linear(4, 3)], input_shape=(4,))
    np.testing.assert_array_equal(model.params[:4], 1)


@pytest.mark.workers(2)
def test_a_stage_that_cannot_be_copied_is_an_error_on_every_rank(comm):
    """Only one rank has the stage, and no rank waits for it."""
    model = TorchModel([tnn.Linear(4, 4), tnn.Tanh(), tnn.Linear(4, 3)], seed=1)
    model.layers[2].module.kept = torch.ones(2, requires_grad=True) * 2  # of a graph
    with pytest.raises(RuntimeError, match="deepcopy"):
        Pipeline(model, momentum(), comm, 2, cuts=[1])


@pytest.mark.workers(2)
def test_a_pipeline_of_one_module_says_why_not(comm):
    model = TorchModel(partial(Block, 4), input_shape=(4,))
    with pytest.raises(ValueError, match="a torch module that is no Sequential is one layer"):
        Pipeline(model, momentum(), comm)


@pytest.mark.workers(2, 3)
def test_a_pipeline_is_not_cut_behind_a_layer_that_makes_more_rows(comm):
    """All ranks refuse before any of them waits for a message; as the last layer it trains."""

    def make(*behind):
        layers = tnn.Embedding(7, 4), tnn.Tanh(), tnn.Linear(4, 7), tnn.Flatten(0, 1), *behind
        return TorchModel([*layers], dtype="float64", input_shape=(5,))

    with pytest.raises(Refused, match="layer 3 makes 5 rows of each: a pipeline cannot be cut"):
        Pipeline(make(tnn.Tanh()), momentum(), comm, cuts=[1, 4][-comm.size + 1 :])
    with pytest.raises(Refused, match=r"layer 3 makes several rows .* expected at most 4"):
        Pipeline(make(*8 * [tnn.Tanh()]), momentum(), comm, schedule="interleaved", chunks=3)
    batch = Sequences(np.random.default_rng(0).integers(0, 7, (4, 6)))
    costly = tnn.Linear(7, 2048), tnn.Tanh(), tnn.Linear(2048, 7)
    for cuts, behind in (([1, 2][: comm.size - 1], ()), ("auto", costly)):
        parallel = Pipeline(make(*behind), momentum(), comm, cuts=cuts)
        oracle = Sequential(make(*behind), momentum())
        assert_trains_like(oracle, parallel, [batch] * 2, comm)
        parallel.close()
