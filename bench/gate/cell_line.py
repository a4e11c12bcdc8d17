"""What the gate needs of a cell's line, which a file or a launch of another version may lack."""

from __future__ import annotations

from typing import Any

SHORTEST, LONGEST = 1e-9, 1e9
"""Seconds of a turn: less is below any clock's resolution, more is no measurement."""

MOST = 2**31 - 1
"""Of anything that is counted."""


def checked(line: Any) -> dict[str, Any]:
    """Return a cell's line if the gate can use it.

    Raises:
        ValueError: a key is missing, or does not hold what the gate needs; the message says which.
    """
    if not isinstance(line, dict):
        raise ValueError(f"a cell is {type(line).__name__}, expected an object")
    cell = line.get("id")
    if not is_text(cell):
        raise ValueError(f"the id of a cell is {_short(cell)}, expected printable text")
    if not is_text(device := line.get("device")):
        raise ValueError(f"{cell}: device is {_short(device)}, expected a name such as cpu")
    if not isinstance(flag := line.get("oversubscribed"), bool):
        raise ValueError(f"{cell}: oversubscribed is {_short(flag)}, expected true or false")
    for key in ("workers", "steps_per_round"):
        if not is_count(number := line.get(key)):
            raise ValueError(f"{cell}: {key} is {_short(number)}, expected 1 to {MOST}")
    for key in ("background_load", "foreign"):
        if not _is_number(load := line.get(key, 0.0), 0, MOST):
            raise ValueError(f"{cell}: {key} is {_short(load)}, expected a number of cores")
    rounds = line.get("rounds")
    sequential, parallel = (_seconds(cell, rounds, arm) for arm in ("sequential", "parallel"))
    if len(sequential) != len(parallel):
        raise ValueError(
            f"{cell}: unpaired rounds, {len(sequential)} sequential and {len(parallel)} parallel"
        )
    return line


def _seconds(cell: Any, rounds: Any, arm: str) -> list[float]:
    """Return the round times of an arm."""
    times = rounds.get(arm) if isinstance(rounds, dict) else None
    if not isinstance(times, list) or not times:
        raise ValueError(f"{cell}: the {arm} rounds are {_short(times)}, expected seconds")
    for time in times:
        if not _is_number(time, SHORTEST, LONGEST):
            raise ValueError(
                f"{cell}: a {arm} round took {_short(time)}, expected round times of "
                f"{SHORTEST:g} to {LONGEST:g} seconds"
            )
    return times


def is_text(value: Any) -> bool:
    """Tell whether a value is text that a terminal, XML and UTF-8 can show."""
    return isinstance(value, str) and value != "" and value.isprintable()


def is_count(value: Any) -> bool:
    """Tell whether a value is a number of things: from 1 to `MOST`, and not true."""
    return type(value) is int and 1 <= value <= MOST


def _is_number(value: Any, least: float, most: float) -> bool:
    return type(value) in (int, float) and least <= value <= most  # false for a NaN, too


def _short(value: Any) -> str:
    """Show a value from a file, which may be of any size and depth."""
    if isinstance(value, list | dict):
        return f"{type(value).__name__} of {len(value)}"
    text = repr(value)
    return text if len(text) < 60 else f"{text[:56]} ..."
