"""The presets are the projects' nets, and weights are judged by the rows that are named."""

import numpy as np
import pytest

import nn
from bench.studies.judging import judge
from bench.studies.projects import PRESETS
from nn import Batch
from nn.data import Dataset

pytestmark = pytest.mark.workers(1)


@pytest.mark.parametrize(
    ("preset", "weights", "epochs"),
    [
        ("iris, 4-50-3", [(50, 4), (3, 50)], 100),
        (
            "CNN, 64x7x7 features",
            [(32, 1, 3, 3), (64, 32, 3, 3), (128, 64 * 7 * 7), (64, 128), (10, 64)],
            10,
        ),
    ],
)
def test_a_preset_is_the_net_of_its_project_on_every_device(preset, weights, epochs):
    project = PRESETS[preset]
    model = project.on("cpu")
    sizes = [np.prod(shape, dtype=int) + shape[0] for shape in weights]
    assert [sum(p.size for p in layer.params) for layer in model.layers if layer.params] == sizes
    name, arguments, shape = project.torch
    pytest.importorskip("torch")
    from nn.torch import TorchModel, build

    twin = TorchModel(build(name, **arguments), seed=0, input_shape=shape)
    assert len(twin.params) == len(model.params)
    assert project.epochs == epochs


def test_weights_are_judged_by_the_first_rows_and_every_class():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((40, 4)).astype(np.float32), np.arange(40) % 3
    data = Dataset("set", x, y, x[:9], np.repeat([0, 1, 2], 3), classes=3)
    trained, other = nn.mlp([4, 5, 3], seed=1), nn.mlp([4, 5, 3], seed=2)
    found = judge(data, other, 10)(trained.params)
    right = trained.predict(data.x_test) == data.y_test
    assert found["loss"] == pytest.approx(trained.loss_of(Batch(x[:10], y[:10])))
    assert found["accuracy"] == pytest.approx(right.mean())
    assert [found[f"class {k}"] for k in range(3)] == [
        pytest.approx(right[3 * k : 3 * k + 3].mean()) for k in range(3)
    ]
    assert len({found[f"class {k}"] for k in range(3)}) > 1
