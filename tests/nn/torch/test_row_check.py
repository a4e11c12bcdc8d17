"""Modules that keep rows apart are taken; modules whose result depends on the split are refused."""

import random
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import nn as tnn
from torch.utils.checkpoint import checkpoint

from nn.torch import layer as torch_layer
from nn.torch import row_check
from nn.torch.model import TorchModel
from tests.nn.torch.nets import Opaque
from tests.support.oracles import random_batches


@pytest.mark.workers(1)
@pytest.mark.parametrize(
    ("dtype", "compute"), [("float32", None), ("float32", "bfloat16"), ("float64", None)]
)
def test_modules_that_keep_rows_apart_are_taken(dtype, compute):
    """Rounding in deep nets does not look like mixing, and batch norm may mix rows."""
    deep = [tnn.Sequential(tnn.Linear(64, 64), tnn.ReLU()) for _ in range(50)]
    for module, shape in (
        (Opaque(tnn.Sequential(*deep)), (64,)),
        (tnn.TransformerEncoderLayer(4, 1, 8, dropout=0.0, batch_first=True), (5, 4)),
        (tnn.Sequential(tnn.Embedding(2, 4), tnn.Flatten(0, 1)), (5,)),
        (tnn.BatchNorm1d(4), (4,)),
        (tnn.BatchNorm1d(4, track_running_stats=False), (4,)),
        (tnn.ReLU(), (0,)),
    ):
        assert TorchModel(module, dtype=dtype, input_shape=shape, compute=compute)


@pytest.mark.workers(1)
def test_values_that_are_not_finite_do_not_look_like_mixed_rows():
    for value in (np.nan, np.inf):
        net = Opaque(tnn.Linear(4, 3))
        net.inner.weight.data[:2] = value
        assert TorchModel(net, seed=None, input_shape=(4,))


class Noise(tnn.Module):
    def __init__(self, draw):
        super().__init__()
        self.draw = draw

    def forward(self, x):
        return x + self.draw(x)


class Clipped(tnn.Module):
    """A module that changes its parameters as it computes."""

    def __init__(self):
        super().__init__()
        self.line = tnn.Linear(2, 2)

    def forward(self, x):
        with torch.no_grad():
            self.line.weight.clamp_(-0.1, 0.1)
        return self.line(x)


@pytest.mark.workers(1)
@pytest.mark.parametrize(
    ("module", "changed"),
    [
        (tnn.RReLU(), "torch's random"),
        (Noise(torch.rand_like), "torch's random"),
        (Noise(lambda x: random.random()), "python's random"),
        (Noise(lambda x: np.random.standard_normal()), "numpy's random"),  # noqa: NPY002
        (tnn.InstanceNorm1d(4, affine=True, track_running_stats=True), "0.running_mean"),
        (Clipped(), "0.line.weight"),
    ],
    ids=["random in training", "torch", "python", "numpy", "statistics", "parameters"],
)
def test_what_depends_on_how_rows_are_split_is_refused_when_it_shows(module, changed):
    model = TorchModel([module, tnn.Flatten(), tnn.Linear(8, 3)], input_shape=(4, 2))
    with pytest.raises(ValueError, match=rf"{changed}.* depends on how rows are split"):
        model.gradients(*random_batches(model, 4, steps=1))


class Positions(tnn.Module):
    """A module that makes a table when it first sees rows, and keeps it."""

    def __init__(self, grows):
        super().__init__()
        self.register_buffer("table", None)
        self.grows = grows

    def forward(self, x):
        if self.table is None:
            self.table = torch.arange(x[0].numel(), dtype=x.dtype).view_as(x[0])
        if self.grows:
            self.table += 1
        return x + self.table


@pytest.mark.workers(1)
def test_a_table_may_be_made_at_the_first_call_but_not_change_at_the_next():
    for grows in (False, True):
        model = TorchModel(
            [Positions(grows), tnn.Flatten(), tnn.Linear(8, 3)], input_shape=(4, 2), seed=None
        )
        first, second, third = random_batches(model, 4)
        model.gradients(first)
        refused = pytest.raises(ValueError, match="table as it computes")
        with refused if grows else nullcontext():
            model.gradients(second)
            model.gradients(third)


class WrittenForAutocast(tnn.Module):
    """A module that computes in bfloat16 by itself, and relies on autocast for the rest."""

    def __init__(self, mixes=False):
        super().__init__()
        self.line, self.mixes = tnn.Linear(4, 4), mixes

    def forward(self, x):
        y = self.line(torch.tanh(x).bfloat16()).float()
        return y + y.mean(0) if self.mixes else y


@pytest.mark.workers(1)
def test_a_module_that_needs_autocast_is_tried_with_it():
    def make(mixes):
        modules = [WrittenForAutocast(mixes), tnn.Linear(4, 3)]
        return TorchModel(modules, input_shape=(4,), compute="bfloat16")

    model = make(False)
    assert np.isfinite(model.gradients(*random_batches(model, 5, steps=1)))
    with pytest.raises(ValueError, match="mixes rows"):
        make(True)


@pytest.mark.workers(1)
def test_other_generators_of_numpy_are_watched_too():
    before = np.random.get_bit_generator()
    np.random.set_bit_generator(np.random.PCG64(1))
    try:
        noise = Noise(lambda x: np.random.random())  # noqa: NPY002
        model = TorchModel([noise, tnn.Linear(4, 3)], input_shape=(4,))
        with pytest.raises(ValueError, match="numpy's random"):
            model.gradients(*random_batches(model, 4, steps=1))
    finally:
        np.random.set_bit_generator(before)


@pytest.mark.workers(1)
def test_of_no_rows_nothing_shows_yet():
    """With synchronised batch norm a rank may have no rows at first."""
    layer = torch_layer.TorchLayer(Noise(torch.rand_like))
    layer._collective = True
    layer.forward(np.empty((0, 4), "float32"))
    with pytest.raises(ValueError, match="depends on how rows are split"):
        layer.forward(np.ones((3, 4), "float32"))


@pytest.mark.workers(1)
def test_a_device_has_random_numbers_of_its_own(monkeypatch):
    """Two devices are simulated. A module may still draw from the host's generator."""
    drawn = {"cuda:0": 0, "cuda:1": 0}
    monkeypatch.setattr(
        torch.cuda, "get_rng_state", lambda device: torch.tensor(drawn[str(device)])
    )
    states = []
    for draw in (lambda: None, lambda: drawn.update({"cuda:1": 1}), lambda: torch.rand(1)):
        draw()
        states.append(row_check.generator_states(torch.device("cuda:1")))
    assert states[0].keys() == states[1].keys() == states[2].keys()
    for before, after, whose in zip(states, states[1:], ("the device's", "torch's")):
        assert [name for name in after if after[name] != before[name]] == [
            f"{whose} random generator"
        ]


class Branch(tnn.Module):
    """One of two heads, chosen by all rows together."""

    def __init__(self):
        super().__init__()
        self.a, self.b = tnn.Linear(6, 4), tnn.Linear(6, 4)

    def forward(self, x):
        return self.a(x) if x.mean() > 0 else self.b(x)


class Crowded(tnn.Module):
    """A mixture of two experts, each with room for 12 rows; others pass unchanged."""

    def __init__(self):
        super().__init__()
        self.gate = tnn.Linear(6, 2)
        self.experts = tnn.ModuleList([tnn.Linear(6, 6), tnn.Linear(6, 6)])

    def forward(self, x):
        chosen, y = self.gate(x).argmax(1), x.clone()
        for number, expert in enumerate(self.experts):
            rows = torch.nonzero(chosen == number).flatten()[:12]
            y[rows] = expert(x[rows])
        return y


@pytest.mark.workers(1)
@pytest.mark.parametrize(("module", "many"), [(Branch(), "7"), (Crowded(), "33")])
def test_rows_that_meet_only_among_many_are_found(module, many):
    with pytest.raises(ValueError, match=f"mixes rows .*of {many} it makes something else"):
        TorchModel(module, dtype="float64", input_shape=(6,))


class Checkpointed(tnn.Module):
    def __init__(self, reentrant):
        super().__init__()
        self.inner, self.reentrant = tnn.Linear(6, 6), reentrant

    def forward(self, x):
        return x + checkpoint(self.inner, x, use_reentrant=self.reentrant)


@pytest.mark.workers(1)
@pytest.mark.parametrize("before", [[], [tnn.Linear(6, 6)]])
def test_a_reentrant_checkpoint_is_refused_in_every_layer(before):
    """In a first layer its parameters would never have trained, without a word."""
    with pytest.raises(ValueError, match="use_reentrant=False"):
        TorchModel([*before, Checkpointed(True)], seed=0, input_shape=(6,))
    assert TorchModel([*before, Checkpointed(False)], seed=0, input_shape=(6,))


@pytest.mark.workers(1)
def test_parameters_that_get_no_gradient_are_named():
    net = Opaque(tnn.Linear(6, 4))
    net.head = tnn.Linear(6, 4)
    assert TorchModel(net, input_shape=(6,)).unused == ("head.weight", "head.bias")
    assert TorchModel(tnn.Linear(6, 4)).unused == ()


@pytest.mark.parametrize("between", [tnn.Dropout(), tnn.Identity(), tnn.ReLU(inplace=True)])
def test_layers_that_return_their_input_cut_no_gradient_off(between):
    assert TorchModel([tnn.Linear(6, 4), between, tnn.Linear(4, 3)]).unused == ()
