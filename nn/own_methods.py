"""Which of our methods a user's class or object replaces, for code that would not call them."""

from typing import Any


def own_methods(thing: Any) -> list[str]:
    """Name our methods and properties that a model or layer has replaced by others.

    A user's class derived from one of ours may replace some, and so may an assignment to the object
    itself (`model.gradients = ...`). Code that computes in the place of such an object, or that
    makes another object of the class of ours, would leave them out.

    Args:
        thing: an object of a class of ours, or of one derived from it.

    Returns:
        The names in alphabetical order; special methods (`__init__`) are not among them.
    """
    classes = type(thing).__mro__
    ours = next(i for i, each in enumerate(classes) if _is_ours(each))
    names = {*replaced_in_object(thing), *(n for each in classes[:ours] for n in vars(each))}
    return sorted(n for n in names if _is_method(classes[ours], n))


def replaced_in_object(thing: Any) -> list[str]:
    """Name the methods that were assigned to the object itself, in the place of its class's."""
    return sorted(name for name in vars(thing) if _is_method(type(thing), name))


def _is_ours(each: type) -> bool:
    return each.__module__.partition(".")[0] in ("nn", "strategies")


def _is_method(each: type, name: str) -> bool:
    value = getattr(each, name, None)
    return not name.startswith("__") and (callable(value) or isinstance(value, property))
