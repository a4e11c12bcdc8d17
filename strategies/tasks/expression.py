"""Python text of what a user gave, so that a line of it can be run again."""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any


def expression(value: Any) -> tuple[str, set[str]]:
    """Return a Python expression of a value, and the modules that it names.

    The value consists of text, numbers, lists, dicts, functions and partials of these. Anything
    else is its `repr`.
    """
    if isinstance(value, partial):
        given, modules = _each((value.func, *value.args))
        named, others = _each(value.keywords.values())
        given += [f"{name}={text}" for name, text in zip(value.keywords, named)]
        return f"functools.partial({', '.join(given)})", {"functools"} | modules | others
    if isinstance(value, Mapping):
        texts, modules = _each(value.values())
        return f"{{{', '.join(f'{key!r}: {text}' for key, text in zip(value, texts))}}}", modules
    if isinstance(value, list):
        texts, modules = _each(value)
        return f"[{', '.join(texts)}]", modules
    if callable(value) and hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}", {value.__module__}
    return repr(value), set()


def _each(values: Iterable[Any]) -> tuple[list[str], set[str]]:
    texts, modules = [], set()
    for value in values:
        text, named = expression(value)
        texts.append(text)
        modules |= named
    return texts, modules
