"""Models of tasks: functions that build a new one for each training, by name.

Such a function is called with `seed=`, and with `loss=` where one is asked for: `nn.mlp`,
`nn.lenet` and `nn.torch.TorchModel` are called like this once the rest is filled in, e.g.
`partial(nn.mlp, [784, 128, 10])`. For other processes it must be picklable: a function of a module,
or a `functools.partial` of one.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import nn
from nn.arguments import as_int
from nn.data import Dataset
from strategies.tasks.fitting import check_set

Builder = Callable[..., Any]
"""(seed=, loss=) -> model."""

SHAPES = {400: (1, 20, 20), 784: (1, 28, 28), 3072: (3, 32, 32)}
"""Columns of a set -> the shape of one image. 400 principal components are laid out as 20x20."""

WIDTHS = (256, 128)
"""Hidden neurons of the net "mlp"."""


def as_builders(models: Mapping[str, Builder] | Sequence[str], dataset: Dataset) -> dict[str, Any]:
    """Return functions that build models, by name.

    Args:
        models: name -> function, or a list of names: "mlp", "cnn" and "lenet" are the nets of
            `nn`, every other name is one of `nn.torch.zoo.NETS`, at its published size.
        dataset: what they are trained on, which decides their inputs and classes.

    Raises:
        TypeError: a model is no function, or the set is none of `nn.data`.
        ValueError: there is no model, no such name, or the rows of the set have no number of
            columns in `SHAPES`, which nets by name need.
    """
    check_set(dataset)
    if isinstance(models, str):
        raise TypeError(f"models={models!r}: expected a list of names, e.g. [{models!r}]")
    if not isinstance(models, Mapping):
        models = {name: by_name(name, dataset) for name in models}
    if not models:
        raise ValueError("models is empty: expected at least one")
    for name, build in models.items():
        if not callable(build) or isinstance(build, nn.Model):
            raise TypeError(
                f"models[{name!r}] is {type(build).__name__}: expected a function that builds a "
                "model, e.g. partial(nn.mlp, [784, 128, 10])"
            )
    return dict(models)


def by_name(name: str, dataset: Dataset) -> Builder:
    """Return a function that builds the net of this name for this data set."""
    inputs = dataset.x.shape[1]
    if name == "mlp":
        return partial(nn.mlp, [inputs, *WIDTHS, dataset.classes])
    shape = SHAPES.get(inputs)
    if shape is None:
        raise ValueError(
            f"{name!r} on {dataset.name} of {inputs} columns: nets by name take images of "
            "28x28 or 3x32x32 pixels, or 400 components; expected a function that builds the model"
        )
    if name in ("cnn", "lenet"):
        return partial(getattr(nn, name), dataset.classes, shape)
    return partial(torch_net, name, dataset.classes, shape)


def torch_net(
    name: str, classes: int, input_shape: tuple[int, ...], seed: int, loss: Any = None, **size: Any
) -> Any:
    """Build the torch net of this name.

    Args:
        size: further arguments of the net, such as `width=8`.

    Raises:
        ValueError: as `nn.torch.build`.
    """
    from nn.torch import TorchModel, build

    net = partial(build, name, classes=classes, input_shape=input_shape, **size)
    return TorchModel(net, seed=seed, input_shape=input_shape, loss=loss)


def fully_connected(
    inputs: int, classes: int, layers: int = 1, width: int = 64, *, seed: int = 0, loss: Any = None
) -> nn.Model:
    """Build a fully connected net of `layers` hidden layers with `width` neurons each.

    Raises:
        TypeError, ValueError: layers or width is no whole number, of at least 0 or 1.
    """
    hidden = as_int("layers", layers, 0) * [as_int("width", width, 1)]
    return nn.mlp([inputs, *hidden, classes], seed=seed, loss=loss)


def built(builder: Builder, seed: int, loss: Any, **arguments: Any) -> Any:
    """Build a model; a function that takes no loss is called without, where none is asked for."""
    chosen = {} if loss is None else {"loss": loss}
    return builder(**arguments, seed=seed, **chosen)
