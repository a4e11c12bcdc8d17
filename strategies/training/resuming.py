"""Checkpoints: a strategy on disk, from which it goes on bit for bit, and a training likewise."""

import json
from collections.abc import Callable
from dataclasses import replace
from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nn import checkpoint
from nn.arguments import as_int
from nn.plain_json import plain
from strategies.base import Strategy
from strategies.comm.on_rank_0 import on_rank_0
from strategies.comm.raise_together import raise_together
from strategies.training.history import History

SAME = ("dataset", "rows", "batch_size", "seed", "start")
"""What a training that resumes has in common with the one that it goes on with."""

LISTS = {
    "loss": float,
    "seconds": float,
    "samples": int,
    "learning_rate": float,
    "grad_norm": float,
}
"""The lists of a history that have an entry for each step."""


def save(
    path: str | PathLike[str], strategy: Strategy, position: int = 0, history: History | None = None
) -> None:
    """Write parameters, optimizer state and position. Collective; rank 0 writes.

    Args:
        position: batches trained on so far, for `Dataset.batches(..., start=position)`.
        history: of the training, which `train` needs to go on with it.

    Raises:
        TypeError, ValueError: position is no whole number from 0 on.
        OSError, ValueError: the file cannot be written; on every rank. An older one is as it was.
    """
    position = raise_together(strategy.comm, lambda: as_int("position", position, 0))
    state = {**strategy.state(), "position": np.array(position)}
    if history:
        state |= _as_arrays(history)
    on_rank_0(strategy.comm, lambda: checkpoint.write(Path(path), state))


def load(path: str | PathLike[str], strategy: Strategy) -> int:
    """Restore what `save` wrote, and return its position. Collective; every rank reads the file.

    A run resumed with the same number of ranks continues bit for bit, unless a strategy says that
    its `state` is a mean over ranks; with another number it does so to rounding.

    Raises:
        FileNotFoundError, ValueError: no such file, a damaged one, or one of another model or
            optimizer; on every rank.
    """

    def read() -> tuple[dict[str, NDArray], int]:
        state = checkpoint.read(Path(path))
        return state, _position(state, path)

    return _load(strategy, read)


def resume(
    path: str | PathLike[str], strategy: Strategy, asked: History
) -> tuple[History, int] | None:
    """Restore the training that `asked` begins, and return its history and position. Collective.

    Returns None if there is no such file.

    Raises:
        ValueError: as `load`; or the file is of another training, or has no history.
    """
    if not on_rank_0(strategy.comm, Path(path).exists):
        return None
    found: list[History] = []

    def read() -> tuple[dict[str, NDArray], int]:
        state = checkpoint.read(Path(path))
        found.append(_from_arrays(state, path))
        _check_same(found[0], asked, path)
        return state, _position(state, path)

    position = _load(strategy, read)
    latest = {name: getattr(asked, name) for name in ("epochs", "strategy", "workers")}
    return replace(found[0], **latest), position


def _load(strategy: Strategy, read: Callable[[], tuple[dict[str, NDArray], int]]) -> int:
    state, position = raise_together(strategy.comm, read)
    strategy.load_state(state)
    return position


def _position(state: dict[str, NDArray], path: str | PathLike[str]) -> int:
    """Take the position out of what a file holds."""
    found = state.pop("position", None)
    if found is None or found.shape or found.dtype.kind not in "iu" or found < 0:
        raise ValueError(
            f"{path}: its position is {found}: expected a whole number from 0 on, which save writes"
        )
    return int(found)


def _check_same(saved: History, asked: History, path: str | PathLike[str]) -> None:
    other = [
        f"{name}={getattr(saved, name)!r}, not {getattr(asked, name)!r}"
        for name in SAME
        if getattr(saved, name) != getattr(asked, name)
    ]
    if asked.epochs < saved.epochs:
        other.append(f"epochs={saved.epochs}, more than {asked.epochs}")
    if other:
        raise ValueError(
            f"{path} is of another training, with {'; '.join(other)}: expected the same, or "
            "another file"
        )


def _as_arrays(history: History) -> dict[str, NDArray]:
    """The lists as arrays, since there may be millions of steps, and the rest as JSON."""
    lists: dict[str, NDArray] = {
        name: np.array(getattr(history, name), kind) for name, kind in LISTS.items()
    }
    rest = {k: v for k, v in vars(history).items() if k not in LISTS}
    return {
        "history": np.frombuffer(json.dumps(plain(rest)).encode(), np.uint8),
        **{f"history.{name}": array for name, array in lists.items()},
    }


def _from_arrays(arrays: dict[str, NDArray], path: str | PathLike[str]) -> History:
    """The history that `_as_arrays` took apart, whose arrays are removed."""
    if "history" not in arrays:
        raise ValueError(
            f"{path} has no history, since save wrote it and not train: load it yourself, and give "
            "train the position as start="
        )
    try:
        rest = json.loads(arrays.pop("history").tobytes())
        lists = {name: arrays.pop(f"history.{name}").tolist() for name in LISTS}
        return History.from_dict(rest | lists)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path}: its history cannot be read ({error!r})") from error
