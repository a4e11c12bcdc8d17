"""Load a user's model, strategy, recipe and data, and try them before any test runs."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.user_code import UserCodeError
from bench.user_code.conversion import as_model, as_rows, kind_of
from bench.user_code.files import blamed, load_attribute, names_python, seeded
from bench.user_code.nets import Copies, Net, Rows
from bench.user_code.optimizer import SMALL, UserOptimizer
from bench.user_code.reference import Reference
from bench.user_code.registry import UserCode
from nn import SGD, Batch, Model, Recipe, data
from nn.loss import Loss
from strategies import Sequential
from strategies.catalog import Build


@dataclass(frozen=True)
class Options:
    """What the options of the same names are given; None for those that are not."""

    model: str | None = None
    recipe: str | None = None
    strategy: str | None = None
    optimizer: str | None = None
    loss: str | None = None
    reference: str | None = None
    data: str | None = None

    def __bool__(self) -> bool:
        return any(value is not None for value in vars(self).values())


def load(options: Options, devices: Sequence[str] = ()) -> UserCode:
    """Load what the options name.

    Raises:
        UserCodeError: one of them is unusable, two give the same thing, or the model on one of the
            devices is unusable.
    """
    if options.model and options.recipe:
        raise UserCodeError("--model and --recipe both give a model: expected one of the two")
    given = options.model or options.recipe
    for name in ("data", "loss", "reference"):
        if getattr(options, name) and not given:
            raise UserCodeError(
                f"--{name} gives {WHAT[name]} for your own model: expected --model too, or --recipe"
            )
    made = load_net(options) if given else Loaded()
    for device in devices:
        if made.net:
            with blamed(f"--device {device}"):
                made.net.on(device).build("float32")
    name, build = load_strategy(options.strategy) if options.strategy else ("", None)
    optimizer = made.optimizer
    if options.optimizer:
        optimizer = load_optimizer(options.optimizer)
    if made.reference and not optimizer:
        raise UserCodeError(
            f"{made.reference.given} is compared with plain training: expected --optimizer too, "
            "the same as in the loop"
        )
    hides_scale = bool(optimizer and optimizer.hides_scale(made.net or SMALL))
    notes = (*made.notes, *[HIDES_SCALE] * hides_scale)
    return UserCode(made.net, build, name, optimizer, hides_scale, made.reference, notes)


HIDES_SCALE = (
    "whether gradients have the right size: your optimizer moves the parameters as far for a "
    "gradient of twice the size, so SGD with momentum was tried too"
)

WHAT = {
    "data": "rows",
    "loss": "a loss",
    "reference": "a training loop",
    "optimizer": "an optimizer",
}
"""What a recipe may have, and an option gives: its name, and what it is in words."""


@dataclass(frozen=True)
class Loaded:
    """What comes with a user's model."""

    net: Net | None = None
    optimizer: UserOptimizer | None = None
    reference: Reference | None = None
    notes: tuple[str, ...] = ()


def load_model(argument: str, rows: Rows | None = None) -> Net:
    """Load the model that `path/to/file.py:factory` makes; see `load_net`."""
    net = load_net(Options(model=argument), rows).net
    assert net
    return net


def load_net(options: Options, rows: Rows | None = None) -> Loaded:
    """Load the model or recipe that a factory makes, and take a step on two rows.

    Raises:
        UserCodeError: there is no such file or name, or what it makes cannot be trained.
    """
    option = "--recipe" if options.recipe else "--model"
    argument = options.recipe or options.model or ""
    given = f"{option} {argument}"
    factory, name = load_attribute(argument, option, "factory")
    if not callable(factory):
        raise UserCodeError(
            f"{given}: {name} is {kind_of(factory)}; expected a function without arguments that "
            f"returns a {'recipe' if options.recipe else 'model'}"
        )
    recipe = _recipe(factory, given)
    if options.recipe and not recipe:
        raise UserCodeError(
            f"{given}: it returned no recipe; expected nn.Recipe(model=..., optimizer=...)"
        )
    for part in WHAT:
        if getattr(options, part) and getattr(recipe, part, None) is not None:
            raise UserCodeError(
                f"--{part} {getattr(options, part)}: {given} has {WHAT[part]} too; expected one of "
                "the two"
            )
    if options.data:
        rows = load_data(options.data)
    elif recipe and recipe.data is not None:
        rows = rows_of(recipe.data, f"{given}: its data")
    loss = load_loss(options.loss) if options.loss else None

    def build(dtype: str) -> Any:
        with blamed(f"{given}: {name}()"), seeded():
            made, own_loss = factory(), loss
            if isinstance(made, Recipe):
                made, own_loss = made.model, loss if made.loss is None else made.loss
            return as_model(made, dtype, given, factory, rows, own_loss)

    net = Net(name, build, rows)
    single, double = ((build(dtype), build(dtype)) for dtype in ("float32", "float64"))
    for pair in (single, double):
        _check_new_layers(*pair, f"{given}: {name}()")
    _check_same_parameters(*double, f"{given}: {name}()")
    source = "the rows of --data" if rows else "random rows, as there is no --data,"
    with blamed(f"{given}: training on {source}"):
        batch = _extremes(rows) if rows else net.batches([2])[0]
        if not np.isfinite(Sequential(double[0], SGD(0.0)).step(batch)):
            raise UserCodeError(f"{given}: the loss of the first step is not finite")
    net = replace(
        net, build=Copies(build), device=str(getattr(single[0].layers[0], "device", "cpu"))
    )
    optimizer = reference = None
    if recipe and recipe.optimizer:
        optimizer = UserOptimizer(f"{given}: its optimizer", name, recipe.optimizer)
    if recipe and recipe.reference:
        reference = Reference(f"{given}: its reference", recipe.reference)
    if options.reference:
        reference = load_reference(options.reference)
    return Loaded(net, optimizer, reference, tuple(undecided(double[0])))


def _recipe(factory: Any, given: str) -> Recipe | None:
    with blamed(f"{given}: {given.rpartition(':')[2]}()"), seeded():
        made = factory()
    return made if isinstance(made, Recipe) else None


def undecided(model: Model) -> list[str]:
    """Say what a first step has shown that a trial on these rows cannot decide."""
    unused = getattr(model, "unused", ())
    return [f"parameters that got no gradient: {', '.join(unused)}"] if unused else []


def load_loss(argument: str) -> Any:
    """Load the loss that `path/to/file.py:name` names.

    Raises:
        UserCodeError: there is no such file or name, or it is no loss.
    """
    loss, name = load_attribute(argument, "--loss", "loss")
    if inspect.isclass(loss) or not (isinstance(loss, Loss) or callable(loss)):
        raise UserCodeError(
            f"--loss {argument}: {name} is {kind_of(loss)}; expected one of nn.loss, a loss of "
            "torch.nn, or a function of (outputs, targets)"
        )
    return loss


def load_optimizer(argument: str) -> UserOptimizer:
    """Load the function that `path/to/file.py:factory` names, and have it make an optimizer.

    Raises:
        UserCodeError: there is no such file or name, or what it makes is no optimizer.
    """
    factory, name = load_attribute(argument, "--optimizer", "factory")
    if not callable(factory):
        raise UserCodeError(
            f"--optimizer {argument}: {name} is {kind_of(factory)}; expected a function without "
            "arguments that makes a new optimizer"
        )
    return UserOptimizer(f"--optimizer {argument}: {name}()", name, factory)


def load_reference(argument: str) -> Reference:
    """Load the training loop that `path/to/file.py:train` names.

    Raises:
        UserCodeError: there is no such file or name, or it is no function.
    """
    train, name = load_attribute(argument, "--reference", "train")
    if not callable(train) or inspect.isclass(train):
        raise UserCodeError(
            f"--reference {argument}: {name} is {kind_of(train)}; expected a function of batches "
            "that returns the weights it trained"
        )
    return Reference(f"--reference {argument}: {name}()", train)


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
            found, _ = load_attribute(argument, "--data", "function")
        elif Path(argument).suffix in (".npz", ".mat"):
            found = data.load("file", path=argument)
        else:
            found = data.load(argument)
    return rows_of(found, f"--data {argument}")


def rows_of(found: Any, given: str) -> Rows:
    """Return the rows of what a user gave, or of what it returns if it is a function."""
    with blamed(given):
        if callable(found):
            found = found()
        rows = as_rows(found)
        if rows is None:
            raise UserCodeError(
                f"{given}: got {kind_of(found)}; expected (x, y), a nn.Batch, "
                "nn.sequences.Sequences or a data set of nn.data"
            )
        if not len(rows()):
            raise UserCodeError(f"{given}: no rows; expected at least one")
        return rows
