"""Checkpoints: a strategy on disk, from which it goes on bit for bit, and a training likewise."""

import json
from collections.abc import Mapping
from dataclasses import replace
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nn import checkpoint
from strategies.base import Strategy
from strategies.comm.on_rank_0 import on_rank_0
from strategies.comm.raise_together import raise_together
from strategies.training.history import History

SAME = ("dataset", "rows", "batch_size", "seed", "start")
"""What a training that resumes has in common with the one that it goes on with."""

LISTS = {"loss": float, "seconds": float, "samples": int, "learning_rate": float}
"""The lists of a history that have an entry for each step."""


def save(
    path: str | PathLike[str],
    strategy: Strategy,
    position: int = 0,
    extra: Mapping[str, NDArray] | None = None,
) -> None:
    """Write parameters, optimizer state and position. Collective; rank 0 writes.

    Args:
        position: batches trained on so far, for `Dataset.batches(..., start=position)`.
        extra: further arrays to write, whose names begin with "history".

    Raises:
        OSError, ValueError: the file cannot be written; on every rank.
    """
    state = {**strategy.state(), "position": np.array(position), **(extra or {})}
    on_rank_0(strategy.comm, lambda: arrays_on_disk.write(path, state))


def load(path: str | PathLike[str], strategy: Strategy) -> int:
    """Restore what `save` wrote, and return its position. Collective; every rank reads the file.

    A run resumed with the same number of ranks continues bit for bit, unless a strategy says that
    its `state` is a mean over ranks.

    Raises:
        FileNotFoundError, ValueError: no such file, a damaged one, or one of another model or
            optimizer; on every rank.
    """
    state = raise_together(strategy.comm, lambda: arrays_on_disk.read(path))
    position = int(state.pop("position", np.array(0)))
    strategy.load_state(state)
    return position


def _resume(path: str | PathLike[str], strategy: Strategy, asked: History) -> tuple[History, int]:
    """Restore a training that is to be the one of `asked`, and return its history and position."""

    def read() -> History:
        history = _from_arrays(arrays_on_disk.read(path), path)
        other = [
            f"{name} is {getattr(history, name)} there and {getattr(asked, name)} here"
            for name in SAME
            if getattr(history, name) != getattr(asked, name)
        ]
        if asked.epochs < history.epochs:
            other.append(
                f"epochs is {history.epochs} there and {asked.epochs} here, which is fewer"
            )
        if other:
            raise ValueError(f"{path} is the checkpoint of another training: {', '.join(other)}")
        return history

    history = raise_together(strategy.comm, read)
    position = load(path, strategy)
    return replace(
        history, epochs=asked.epochs, strategy=asked.strategy, workers=asked.workers
    ), position


def _as_arrays(history: History) -> dict[str, NDArray]:
    """The lists as arrays, since there may be millions of steps, and the rest as JSON."""
    rest = replace(history, **{name: [] for name in LISTS}).as_dict()
    lists = {
        f"history.{name}": np.array(getattr(history, name), kind) for name, kind in LISTS.items()
    }
    return {"history": np.array(json.dumps(rest)), **lists}


def _from_arrays(arrays: Mapping[str, NDArray], path: str | PathLike[str]) -> History:
    if "history" not in arrays:
        raise ValueError(
            f"{path} was written by save, without a history: load it, and train with start="
        )
    lists = {name: arrays[f"history.{name}"].tolist() for name in LISTS}
    return replace(History.from_dict(json.loads(str(arrays["history"]))), **lists)
