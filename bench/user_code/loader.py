"""Load a user's model, strategy and data, and try them before any test runs."""

import inspect
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.user_code import UserCodeError
from bench.user_code.conversion import as_model, as_rows, kind_of
from bench.user_code.files import blamed, load_attribute, names_python
from bench.user_code.nets import Net, Rows
from bench.user_code.registry import UserCode
from nn import SGD, Batch, Model, data
from strategies import Sequential
from strategies.catalog import Build


def load(
    model: str | None, strategy: str | None, rows: str | None, devices: Sequence[str] = ()
) -> UserCode:
    """Load what the options `--model`, `--strategy` and `--data` name.

    Raises:
        UserCodeError: one of them is unusable, or the model on one of the devices is.
    """
    if rows and not model:
        raise UserCodeError("--data gives the rows of your own model: expected --model too")
    loaded_rows = load_data(rows) if rows else None
    net = load_model(model, loaded_rows) if model else None
    for device in devices:
        if net:
            with blamed(f"--device {device}"):
                net.on(device).build("float32")
    name, build = load_strategy(strategy) if strategy else ("", None)
    return UserCode(net, build, name)


def load_model(argument: str, rows: Rows | None = None) -> Net:
    """Load the model that `path/to/file.py:factory` makes, and take a step on two rows.

    Raises:
        UserCodeError: there is no such file or name, or what it makes cannot be trained.
    """
    factory, name = load_attribute(argument, "--model", "factory")
    if not callable(factory):
        raise UserCodeError(
            f"--model {argument}: {name} is {kind_of(factory)}; expected a function without "
            "arguments that returns a model"
        )

    def build(dtype: str) -> Any:
        with blamed(f"--model {argument}: {name}()"), _seeded():
            return as_model(factory(), dtype, argument, factory, rows)

    net = Net(name, build, rows)
    single, double = ((build(dtype), build(dtype)) for dtype in ("float32", "float64"))
    for pair in (single, double):
        _check_new_layers(*pair, f"--model {argument}: {name}()")
    _check_same_parameters(*double, f"--model {argument}: {name}()")
    source = "the rows of --data" if rows else "random rows, as there is no --data,"
    with blamed(f"--model {argument}: training on {source}"):
        batch = _extremes(rows) if rows else net.batches([2])[0]
        if not np.isfinite(Sequential(double[0], SGD(0.0)).step(batch)):
            raise UserCodeError(f"--model {argument}: the loss of the first step is not finite")
    return replace(net, device=str(getattr(single[0].layers[0], "device", "cpu")))


def _check_new_layers(one: Model, other: Model, factory: str) -> None:
    if any(x is y and x.n_params for x in one.layers for y in other.layers):
        raise UserCodeError(
            f"{factory} returns the same layers at each call, so a strategy and the plain training "
            "that it is compared with would share their weights; make them in the function"
        )


def _check_same_parameters(one: Model, other: Model, factory: str) -> None:
    if not np.array_equal(one.params, other.params, equal_nan=True):
        raise UserCodeError(
            f"{factory} returns other parameters at each call; every rank calls it, and all need "
            "the same: seed the generator that it draws from"
        )
    if not one.params.size:
        raise UserCodeError(f"{factory} has no parameters; expected something to train")


def _extremes(rows: Rows) -> Batch:
    """Return the row with the smallest label and the one with the largest."""
    labels = rows().y.reshape(len(rows()), -1)  # a row of tokens has many
    return rows(index=[labels.min(axis=1).argmin(), labels.max(axis=1).argmax()])


@contextmanager
def _seeded() -> Iterator[None]:
    """Seed the global generators of numpy and torch, and restore their states afterwards."""
    state = np.random.get_state()  # noqa: NPY002  # the user's code may draw from it
    np.random.seed(0)  # noqa: NPY002
    try:
        if torch := sys.modules.get("torch"):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                yield
        else:
            yield
    finally:
        np.random.set_state(state)  # noqa: NPY002


def load_strategy(argument: str) -> tuple[str, Build]:
    """Load the class that `path/to/file.py:Class` names; return its name and the class.

    Raises:
        UserCodeError: there is no such file or name, or it is no class with the methods of a
            strategy.
    """
    strategy, name = load_attribute(argument, "--strategy", "Class")
    made = strategy.func if isinstance(strategy, partial) else strategy
    missing = [m for m in ("step", "weights", "close") if not callable(getattr(made, m, None))]
    if not inspect.isclass(made) or missing:
        raise UserCodeError(
            f"--strategy {argument}: {name} is {kind_of(made)}"
            + (f" without {', '.join(missing)}" if inspect.isclass(made) else "")
            + "; expected a class with step(batch), weights() and close(), which a class derived "
            "from strategies.Strategy has"
        )
    if hasattr(made, "bounded"):
        raise UserCodeError(
            f"--strategy {argument}: {name} has the attribute `bounded`, which is called "
            "`runs_silent` since 0.2; rename it"
        )
    return name, strategy


def load_data(argument: str) -> Rows:
    """Load the rows of a named data set, of a .npz or .mat file, or what a function returns.

    Raises:
        UserCodeError: there is none of these, or no batches can be made of it.
    """
    with blamed(f"--data {argument}"):
        found: Any
        if names_python(argument):
            function, _ = load_attribute(argument, "--data", "function")
            found = function() if callable(function) else function
        elif Path(argument).suffix in (".npz", ".mat"):
            found = data.load("file", path=argument)
        else:
            found = data.load(argument)
        rows = as_rows(found)
        if rows is None:
            raise UserCodeError(
                f"--data {argument}: got {kind_of(found)}; expected (x, y), a nn.Batch, "
                "nn.sequences.Sequences or a data set of nn.data"
            )
        if not len(rows()):
            raise UserCodeError(f"--data {argument}: no rows; expected at least one")
        return rows
