"""Every kind of torch's dropout has masks that do not depend on how a batch is split."""

from copy import copy
from functools import cache

import numpy as np
import pytest
import torch
from torch import nn as tnn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from nn import SGD, Batch
from nn.layers.dropout import rows_of
from nn.torch.dropout_calls import DropoutCalls
from nn.torch.model import TorchModel
from strategies import DataParallel, Pipeline, Sequential, TensorParallel, ZeRO
from tests.support.optimizers import momentum
from tests.support.oracles import Recorded, assert_trains_like

torch.set_num_threads(1)


class Call(tnn.Module):
    """A function as a layer, which is given whether it trains."""

    def __init__(self, call):
        super().__init__()
        self.call = call

    def forward(self, x):
        return self.call(x, self.training)


class Attention(tnn.Module):
    """Attention with `dropout_p`, as small GPTs have it."""

    def __init__(self, **arguments):
        super().__init__()
        self.line, self.arguments = tnn.Linear(8, 24), arguments

    def forward(self, x):
        rows, places, _ = x.shape
        parts = self.line(x).view(rows, places, 3, 2, 4).permute(2, 0, 3, 1, 4)
        p = 0.3 if self.training else 0.0
        y = functional.scaled_dot_product_attention(*parts, dropout_p=p, **self.arguments)
        return functional.dropout(x + y.transpose(1, 2).flatten(2), 0.2, self.training)


class Weighted(tnn.Module):
    """`MultiheadAttention`, with or without its weights, which takes them by another path."""

    def __init__(self, need_weights):
        super().__init__()
        self.attention = tnn.MultiheadAttention(8, 2, dropout=0.4, batch_first=True)
        self.need_weights = need_weights

    def forward(self, x):
        return x + self.attention(x, x, x, need_weights=self.need_weights)[0]


class Recurrent(tnn.Module):
    def __init__(self, kind, batch_first=True, **arguments):
        super().__init__()
        self.inner = kind(8, 8, 3, dropout=0.4, batch_first=batch_first, **arguments)
        self.turned = not batch_first

    def forward(self, x):
        if self.turned:
            return self.inner(x.transpose(0, 1))[0].transpose(0, 1)
        return self.inner(x)[0][..., :8]


class Checkpointed(tnn.Module):
    """Dropout before, in and after parts that backward computes again."""

    def __init__(self, **arguments):
        super().__init__()
        self.first, self.second, self.drop = tnn.Linear(8, 8), tnn.Linear(8, 8), tnn.Dropout(0.3)
        self.arguments = arguments

    def part(self, x):
        return self.drop(torch.tanh(self.drop(self.first(x))))

    def other(self, x):
        return torch.tanh(self.second(functional.dropout(x, 0.4, self.training)))

    def forward(self, x):
        for part in (self.part, self.other, self.part):
            x = self.drop(checkpoint(part, x, use_reentrant=False, **self.arguments))
        return x


KINDS = {
    "1d": lambda: tnn.Dropout1d(0.3),
    "alpha": lambda: tnn.AlphaDropout(0.3),
    "feature alpha": lambda: tnn.FeatureAlphaDropout(0.3),
    "function": lambda: Call(lambda x, training: functional.dropout(x, 0.3, training)),
    "2d": lambda: Call(
        lambda x, training: functional.dropout2d(x.unsqueeze(-1), 0.3, training).squeeze(-1)
    ),
    "3d": lambda: Call(
        lambda x, training: functional.dropout3d(x[..., None, None], 0.3, training)[..., 0, 0]
    ),
    "in place": lambda: Call(lambda x, train: torch.alpha_dropout_(x + 0, 0.3, train)),
    "several places of each row": lambda: Call(
        lambda x, train: functional.dropout(x.flatten(0, 1), torch.tensor(0.3), train).view_as(x)  # type: ignore[arg-type]
    ),
    "dropout_p": lambda: Attention(is_causal=True),
    "attention": lambda: Weighted(False),
    "attention with weights": lambda: Weighted(True),
    "encoder": lambda: tnn.TransformerEncoderLayer(8, 2, 8, dropout=0.3, batch_first=True),
    "lstm": lambda: Recurrent(tnn.LSTM, bidirectional=True),
    "gru": lambda: Recurrent(tnn.GRU, batch_first=False),
    "rnn": lambda: Recurrent(tnn.RNN),
    "checkpoint": Checkpointed,
}


def build(kind):
    layers = [tnn.Linear(8, 8), KINDS[kind](), tnn.Tanh(), tnn.Flatten(), tnn.Linear(24, 3)]
    return TorchModel(layers, dtype="float64", seed=1, input_shape=(3, 8))


@cache
def trained(kind):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((20, 3, 8)), rng.integers(0, 3, 20)
    batches = [Batch(x, y, index) for index in (range(7), range(7, 14), [19, 3])]
    return Recorded(Sequential(build(kind), momentum()), batches)


STRATEGIES = {
    "data": DataParallel,
    "zero": lambda model, optimizer, comm: ZeRO(model, optimizer, comm, stage=3),
    "pipeline": lambda model, optimizer, comm: Pipeline(
        model, optimizer, comm, 2, cuts=[1, 4][: comm.size - 1]
    ),
    "tensor": TensorParallel,
}


@pytest.mark.workers(2, 3)
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("kind", KINDS)
def test_equals_sequential(comm, kind, strategy):
    """Batches of 7 and 2 rows make uneven shards and micro-batches, and empty shards."""
    parallel = STRATEGIES[strategy](build(kind), momentum(), comm)
    oracle = trained(kind)
    assert_trains_like(copy(oracle), parallel, oracle.batches, comm)
    parallel.close()


def forward(module, x, steps=0, rows=None):
    """What the module as a model makes of x."""
    clock = SGD(0.1)
    clock.steps = steps
    model = TorchModel([module], dtype="float64", seed=None, input_shape=x.shape[1:], clock=clock)
    with rows_of(Batch(np.empty((len(x), 1)), np.zeros(len(x), np.intp))):
        return model.forward(x)[0]


@pytest.mark.workers(1)
@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("channels", [False, True])
def test_mean_and_variance_are_those_of_torch(alpha, channels):
    """Alpha dropout keeps mean 0 and variance 1; whole channels are dropped together."""
    kinds = {
        (False, False): tnn.Dropout,
        (False, True): tnn.Dropout2d,
        (True, False): tnn.AlphaDropout,
        (True, True): tnn.FeatureAlphaDropout,
    }
    torch.manual_seed(0)
    module = kinds[alpha, channels](0.3)
    x = np.random.default_rng(0).standard_normal((50, 80, 5, 5))
    ours, theirs = forward(module, x), module(torch.from_numpy(x)).numpy()
    assert ours.mean() == pytest.approx(theirs.mean(), abs=0.03)
    assert ours.var() == pytest.approx(theirs.var(), rel=0.05)
    for y in (ours, theirs):
        values, counts = np.unique(y.round(9), return_counts=True)
        value = values[counts.argmax()]
        dropped = np.isclose(y, value)
        assert dropped.mean() == pytest.approx(0.3, abs=0.03)
        by_channel = dropped.all((2, 3)) | ~dropped.any((2, 3))
        assert by_channel.all() == channels
    kept = ~np.isclose(ours, value) & ~np.isclose(theirs, value)
    np.testing.assert_allclose(ours[kept], theirs[kept], rtol=1e-12)


@pytest.mark.workers(1)
@pytest.mark.parametrize("mask", [None, "causal", "boolean", "added", "grouped"])
def test_attention_without_dropped_weights_is_that_of_torch(mask):
    """With so small a dropout_p that no weight is dropped, for each kind of mask."""
    query, key, value = torch.randn(3, 2, 4, 5, 6, dtype=torch.float64, requires_grad=True)
    seen = torch.rand(2, 1, 5, 5) < 0.5
    seen[0, 0, 2] = False  # a query that sees no key
    arguments = {
        None: {"scale": 0.3},
        "causal": {"is_causal": True},
        "boolean": {"attn_mask": seen},
        "added": {"attn_mask": torch.randn(5, 5, dtype=torch.float64)},
        "grouped": {"enable_gqa": True},
    }[mask]
    if mask == "grouped":
        key, value = key[:, :2], value[:, :2]
    attention = functional.scaled_dot_product_attention
    expected = attention(query, key, value, **arguments)

    class Kept(DropoutCalls):
        def kept(self, x, p, units):
            return None

    with Kept():
        found = attention(query, key, value, dropout_p=0.5, **arguments)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.workers(1)
def test_only_what_trains_and_has_a_probability_is_changed():
    x = np.random.default_rng(0).standard_normal((4, 6))
    for p, training, expected in ((0.0, True, x), (0.5, False, x), (1.0, True, 0 * x)):
        made = forward(Call(lambda x, _: functional.dropout(x, p, training)), x)  # noqa: B023
        np.testing.assert_array_equal(made, expected)
    with pytest.raises(ValueError, match="dropout probability has to be between 0 and 1"):
        forward(Call(lambda x, _: functional.dropout(x, 1.5)), x)


@pytest.mark.workers(1)
def test_a_model_without_dropout_has_no_hooks():
    model = TorchModel([Attention(), tnn.Dropout(0.0)], input_shape=(3, 8))
    assert [layer.drops for layer in model.layers] == [True, False]
    assert not model.layers[1].module._forward_pre_hooks


@pytest.mark.workers(1)
def test_other_random_numbers_beside_dropout_are_refused():
    module = Call(lambda x, _: functional.dropout(x, 0.5) + torch.rand_like(x))
    with pytest.raises(ValueError, match=r"Call changes torch's random .* but those of dropout"):
        forward(module, np.ones((3, 4)))
    before = torch.get_rng_state()
    forward(tnn.Dropout(0.5), np.ones((3, 4)))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.workers(1)
def test_a_checkpoint_that_forgets_the_generator_is_refused():
    layers = [Checkpointed(preserve_rng_state=False), tnn.Flatten(), tnn.Linear(24, 3)]
    model = TorchModel(layers, input_shape=(3, 8), clock=SGD(0.1))
    with pytest.raises(ValueError, match=r"expected checkpoint\(..., preserve_rng_state=True\)"):
        model.gradients(Batch(np.ones((2, 3, 8)), np.zeros(2, int)))


class SequenceClassifier(tnn.Module):
    """The LSTM of torch's example mnist_rnn, with its Dropout2d of rows of pixels."""

    def __init__(self):
        super().__init__()
        self.rnn = tnn.LSTM(input_size=8, hidden_size=6, batch_first=True)
        self.batchnorm = tnn.BatchNorm1d(6)
        self.dropout1, self.dropout2 = tnn.Dropout2d(0.25), tnn.Dropout2d(0.5)
        self.fc1, self.fc2 = tnn.Linear(6, 5), tnn.Linear(5, 3)

    def forward(self, x):
        x, _ = self.rnn(x.reshape(-1, 8, 8))
        x = self.dropout1(self.batchnorm(x[:, -1, :]))
        x = self.dropout2(functional.relu(self.fc1(x)))
        return functional.log_softmax(self.fc2(x), dim=1)


@pytest.mark.workers(1)
@pytest.mark.filterwarnings("ignore:dropout2d")
def test_the_recurrent_net_of_torchs_examples_is_taken():
    model = TorchModel(SequenceClassifier, input_shape=(1, 8, 8))
    rng = np.random.default_rng(0)
    batch = Batch(rng.standard_normal((6, 1, 8, 8)).astype("f"), np.arange(6) % 3)
    assert np.isfinite(Sequential(model, SGD(0.1)).step(batch))
