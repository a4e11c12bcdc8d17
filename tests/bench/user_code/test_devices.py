"""Benchmarks on other devices: what `--device` chooses, and what is trained there.

The CPU stands in for the device, as if its memory were separate.
"""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bench.core import grid, turns
from bench.core.cell import Cell
from bench.core.race import measure
from bench.report.table import render
from bench.user_code import UserCodeError, devices
from bench.user_code.nets import Net
from nn import Model, mlp
from nn.torch import layer as torch_layer
from nn.torch import model as torch_model
from nn.torch.model import TorchModel
from strategies import Sequential
from strategies.records import Run

pytestmark = pytest.mark.workers(1)


@pytest.fixture
def asked(monkeypatch):
    """The devices that models were put on."""
    asked = []
    monkeypatch.setattr(torch_layer, "in_host_memory", lambda device: False)
    monkeypatch.setattr(
        torch_model, "_device", lambda name: asked.append(name) or torch.device("cpu")
    )
    return asked


def chosen(monkeypatch, *marks, asked=None, there=("cpu", "cuda:0")):
    """List the devices that a test with these marks runs on; for a missing one, the reason."""
    monkeypatch.setattr(devices, "_devices", lambda: list(there))
    found = []
    devices.pytest_generate_tests(
        SimpleNamespace(
            fixturenames=["device"],
            definition=SimpleNamespace(get_closest_marker=lambda name: next(iter(marks), None)),
            config=SimpleNamespace(option=SimpleNamespace(device=asked)),
            parametrize=lambda name, values: found.extend(values),
        )
    )
    return [v if isinstance(v, str) else v.marks[0].kwargs["reason"] for v in found]


def test_each_kind_of_device_or_the_one_that_is_asked_for(monkeypatch):
    missing = "torch finds no mps here, only cpu, cuda:0"
    assert chosen(monkeypatch) == ["cpu", "cuda", missing]
    usual = pytest.mark.devices("cpu").mark
    assert chosen(monkeypatch, usual) == ["cpu"]
    assert chosen(monkeypatch, asked=["cuda"]) == chosen(monkeypatch, usual, asked=["cuda"])
    assert chosen(monkeypatch, usual, asked=["cuda", "cpu"]) == ["cuda", "cpu"]


def test_a_device_that_is_asked_for_has_to_be_there(monkeypatch):
    monkeypatch.setattr(devices, "_devices", lambda: ["cpu", "cuda:0"])
    config = SimpleNamespace(
        option=SimpleNamespace(device=["cpu", "cuda", "mps"]), addinivalue_line=print
    )
    with pytest.raises(pytest.UsageError, match="--device mps: torch finds cpu, cuda:0 here"):
        devices.pytest_configure(config)


@pytest.mark.parametrize("name", grid.MODELS)
def test_a_cell_trains_the_same_net_wherever_it_is(asked, name):
    here, there = (grid.case(Cell("DataParallel", name, 1, 8, 1000, on)) for on in ("cpu", "cuda"))
    own, other = here.sequential(), there.sequential()
    assert type(own.model) is Model
    assert isinstance(other.model, TorchModel)
    assert set(asked) == {"cuda"}
    start = own.weights()
    np.testing.assert_array_equal(other.weights(), start)
    for batch in here.batches[:3]:
        losses = own.step(batch), other.step(batch)
        assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    moved = np.abs(own.weights() - start).max()
    assert np.abs(own.weights() - other.weights()).max() < 1e-3 * moved


def test_a_cell_is_measured_on_another_device_and_has_a_table_of_its_own(comm, asked, monkeypatch):
    monkeypatch.setattr(turns, "SHORTEST_TURN", 0.002)
    there = measure(grid.case(Cell("DataParallel", "mlp", 1, 64, 1000, "cuda")), comm, seconds=0)
    assert there.cell.device == "cuda"
    assert set(asked) == {"cuda"}
    here = replace(there, cell=replace(there.cell, device="cpu"))
    table = render(Run(records=[here, there, here]), width=120, colour=False)
    titles = [line.strip() for line in table.splitlines() if line.startswith("mlp")]
    assert titles == ["mlp", "mlp on cuda"]


def test_a_model_of_ones_own_goes_to_the_device_as_it_is(asked):
    def module():
        return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Dropout(), torch.nn.Linear(4, 2))

    net = Net("net", lambda dtype: TorchModel(module, dtype=dtype, seed=2))
    moved = net.on("cuda")
    assert moved.device == "cuda"
    assert net.on("cpu") is net
    np.testing.assert_array_equal(moved.build("float32").params, net.build("float32").params)
    assert "cuda" in asked
    (batch,) = net.batches([4], "float32")
    losses = [
        Sequential(each.build("float32"), grid.optimizer()).step(batch) for each in (net, moved)
    ]
    assert losses[0] == losses[1]


def test_a_net_of_numpy_stays_on_the_cpu():
    net = Net("net", lambda dtype: mlp([3, 2], dtype=dtype))
    with pytest.raises(UserCodeError, match="net is a numpy net: expected --device cpu, not cuda"):
        net.on("cuda")
    assert net.device == "cpu"
