"""Groups of parameters with settings of their own."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

Pattern = str | Callable[[str], bool]
"""A shell pattern of names, or a function that says whether a name belongs to the group."""

Group = tuple[Pattern, Mapping[str, Any]]

OF_ALL = {"clip_norm", "norm_type", "clip_value", "groups"}
"""Arguments of every optimizer that are about the whole gradient, so no group has its own."""


class Part(NamedTuple):
    """A parameter, or a piece of one, in the vector that an optimizer is given.

    Attributes:
        name: the parameter's name.
        size: how many elements of the vector it takes.
        shape: the parameter's shape; None for a piece.
        may_lack_gradient: as of `nn.parameters.Parameter`.
    """

    name: str
    size: int
    shape: tuple[int, ...] | None
    may_lack_gradient: bool = False


class Run(NamedTuple):
    """Neighbouring elements that are moved at once.

    Attributes:
        where: where they lie.
        group: the number of their group; None for no group.
        may_lack_gradient: as of `Part`; then these are the elements of one part.
    """

    where: slice
    group: int | None
    may_lack_gradient: bool


def settings_of(kind: type) -> set[str]:
    """Names of the arguments that an optimizer class takes, except the ones about all groups."""
    names: set[str] = set()
    for base in kind.__mro__:
        if init := vars(base).get("__init__"):
            _, *arguments = inspect.signature(init).parameters.values()
            names |= {
                a.name for a in arguments if a.kind in (a.POSITIONAL_OR_KEYWORD, a.KEYWORD_ONLY)
            }
            if not any(a.kind is a.VAR_KEYWORD for a in arguments):
                break
    return names - OF_ALL


def as_groups(groups: Iterable[Group], known: set[str]) -> list[Group]:
    """Return `groups` as a list.

    Raises:
        TypeError: an entry is not a pair of a pattern or function and a dictionary.
        ValueError: a setting that the optimizer does not have, or one of the whole gradient.
    """
    checked: list[Group] = []
    for entry in groups:
        if (
            not isinstance(entry, Sequence)
            or len(entry) != 2
            or not (isinstance(entry[0], str) or callable(entry[0]))
            or not isinstance(entry[1], Mapping)
        ):
            raise TypeError(
                f"group {entry!r}: expected a pattern or function of a parameter's name, and its "
                'settings, e.g. ("*.bias", {"weight_decay": 0})'
            )
        pattern, settings = entry
        for name in settings:
            if name in OF_ALL:
                raise ValueError(
                    f"group {_named(pattern)}: {name} is about the whole gradient; expected it as "
                    "an argument of the optimizer, not of a group"
                )
            if name not in known:
                raise ValueError(
                    f"group {_named(pattern)}: this optimizer has no setting {name!r}; expected "
                    f"some of {', '.join(sorted(known))}"
                )
        checked.append((pattern, dict(settings)))
    return checked


def group_of(name: str, groups: Sequence[Group]) -> int | None:
    """The number of the first group that a parameter belongs to; None if it belongs to none."""
    return next((i for i, (pattern, _) in enumerate(groups) if _matches(pattern, name)), None)


def check_used(groups: Sequence[Group], names: Iterable[str]) -> None:
    """Raise ValueError if a group has no parameter among all `names` of a model."""
    names = list(names)
    used = {group_of(name, groups) for name in names}
    for i, (pattern, _) in enumerate(groups):
        if i not in used:
            taken = [name for name in names if _matches(pattern, name)]
            raise ValueError(
                f"group {_named(pattern)}: "
                + (
                    f"earlier groups take all its parameters ({', '.join(taken)}), and the first "
                    "that matches wins; expected it before them"
                    if taken
                    else f"no parameter of the model has such a name; expected some of "
                    f"{', '.join(names)}"
                )
            )


def runs_of(parts: Iterable[Part], groups: Sequence[Group]) -> list[Run]:
    """Join neighbouring parts of one group which always have a gradient."""
    runs: list[Run] = []
    at = 0
    for part in parts:
        group, start = group_of(part.name, groups), at
        at += part.size
        if not part.size:
            continue
        if runs and runs[-1][1:] == (group, False) and not part.may_lack_gradient:
            start = runs.pop().where.start
        runs.append(Run(slice(start, at), group, part.may_lack_gradient))
    return runs


def variant(optimizer: Any, group: Group) -> Any:
    """Make an optimizer of the same class and arguments, except for the settings of a group.

    Raises:
        TypeError, ValueError: a setting has a value that the class refuses, or an argument of the
            class is not kept as an attribute of its name, so its value is not known.
    """
    pattern, settings = group
    arguments = dict(settings)
    for name in settings_of(type(optimizer)) - settings.keys():
        if not hasattr(optimizer, name):
            raise TypeError(
                f"groups of {type(optimizer).__name__}: expected it to keep its argument {name} "
                f"as self.{name}"
            )
        arguments[name] = getattr(optimizer, name)
    try:
        return type(optimizer)(**arguments)
    except (TypeError, ValueError) as error:
        raise type(error)(f"group {_named(pattern)}: {error}") from error


def _matches(pattern: Pattern, name: str) -> bool:
    return fnmatchcase(name, pattern) if isinstance(pattern, str) else bool(pattern(name))


def _named(pattern: Pattern) -> str:
    return repr(pattern) if isinstance(pattern, str) else getattr(pattern, "__name__", "function")
