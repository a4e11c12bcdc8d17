"""Spaces of hyper-parameters: what may be chosen, and the configurations that are tried."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from nn.arguments import as_float, as_int
from nn.lr_schedules import constant, cosine
from nn.optim import SGD, AdaGrad, Adam, AdamW, Schedule
from nn.plain_json import plain

OPTIMIZERS: dict[str, Callable[..., Any]] = {
    "sgd": SGD,
    "momentum": partial(SGD, momentum=0.9),
    "adam": Adam,
    "adamw": AdamW,
    "adagrad": AdaGrad,
}
"""Name -> a function from a schedule to an optimizer."""

SCHEDULES: dict[str, Callable[[float, int], Schedule]] = {
    "constant": lambda lr, steps: constant(lr),
    "cosine": cosine,
}
"""Name -> a function from a rate and the number of steps of a training to a schedule."""

NEEDED = ("lr", "batch_size", "epochs")
USUAL = {"optimizer": "sgd", "schedule": "constant"}
"""What a configuration has where the space does not say."""

OURS = (*NEEDED, *USUAL)
"""Names that say how a model is trained; all others are arguments of the model."""


def as_space(space: Mapping[str, Any], *, distributions: bool) -> dict[str, Any]:
    """Return a space whose values are lists, or distributions where these are taken.

    Raises:
        TypeError: the space is no dict, or a value is a distribution where only lists are taken.
        ValueError: a value that must be chosen is missing, or there is nothing to choose from.
    """
    if not isinstance(space, Mapping):
        raise TypeError(
            f'space={space!r:.60}: expected a dict, e.g. {{"lr": [0.1, 0.01], "epochs": 5, ...}}'
        )
    if missing := [name for name in NEEDED if name not in space]:
        raise ValueError(
            f"the space lacks {', '.join(missing)}: expected a value or a list of each"
        )
    found: dict[str, Any] = {}
    for name, value in space.items():
        if hasattr(value, "rvs"):
            if not distributions:
                raise TypeError(
                    f"{name} is a distribution: expected a list of values, or another `how` than "
                    '"grid" and a number of trials'
                )
            found[name] = value
        elif isinstance(value, list | range | np.ndarray):
            found[name] = list(value)
            if not found[name]:
                raise ValueError(f"{name} is empty: expected at least one value")
        else:  # one value for all; a tuple is a value, such as the widths of a net
            found[name] = [value]
    return found


def configurations(space: dict[str, Any], trials: int | None, seed: int) -> list[dict[str, Any]]:
    """Return the whole grid (`trials=None`), or so many random configurations, without repetition.

    They are drawn by scikit-learn's `ParameterSampler`. Only distributions may draw one twice.

    Raises:
        TypeError: trials is not a whole number; a value is none that JSON knows.
        ValueError: a space of lists has fewer than `trials` configurations; a distribution, but no
            number of trials; a value is out of range.
    """
    from sklearn.model_selection import ParameterGrid, ParameterSampler  # slow to import

    lists_only = all(isinstance(value, list) for value in space.values())
    if trials is None:
        if not lists_only:
            raise ValueError("a space with distributions has no end: expected a number of trials=")
        found = list(ParameterGrid(space))
    else:
        as_int("trials", trials, 1)
        if lists_only and trials > (most := len(ParameterGrid(space))):
            raise ValueError(f"trials={trials}: the space has only {most} configurations")
        found = list(ParameterSampler(space, trials, random_state=seed))
    return [checked({**USUAL, **plain(each)}) for each in found]


def checked(configuration: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration whose values are in range.

    Raises:
        TypeError, ValueError: one is not.
    """
    as_float("lr", configuration["lr"], 0.0)
    for name in ("batch_size", "epochs"):
        as_int(name, configuration[name], 1)
    if (name := configuration["schedule"]) not in SCHEDULES:
        raise ValueError(f"schedule={name!r}: expected one of {', '.join(SCHEDULES)}")
    return configuration


def of_model(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a configuration that the model takes."""
    return {name: value for name, value in configuration.items() if name not in OURS}


def check_names(model: Any, space: Mapping[str, Any]) -> None:
    """Raise ValueError if a name of the space is none that the model takes."""
    try:
        inspect.signature(model).bind_partial(seed=0, **of_model(space))
    except TypeError as error:
        raise ValueError(
            f"the space does not fit the model ({error}): expected {', '.join(OURS)}, and "
            f"arguments of the model, which takes {inspect.signature(model)}"
        ) from None
