"""Save a training run, and go on from it bit for bit, on the same or another number of ranks."""

from pathlib import Path

import numpy as np

from nn import checkpoint
from strategies.base import Strategy
from strategies.comm.raise_together import raise_together


def save(path: str | Path, strategy: Strategy, position: int = 0) -> None:
    """Write parameters, optimizer state and position. Collective; rank 0 writes.

    Args:
        position: batches trained on so far, for `Dataset.batches(..., start=position)`.

    Raises:
        OSError, ValueError: the file cannot be written; on every rank.
    """
    state = strategy.state()
    error: Exception | None = None
    if strategy.comm.rank == 0:
        try:
            checkpoint.write(path, {**state, "position": np.array(position)})
        except Exception as failure:
            error = failure
    # Every rank learns how it went: none may go on, or wait, while rank 0 raises.
    error = strategy.comm.bcast(error)
    if error:
        raise error


def load(path: str | Path, strategy: Strategy) -> int:
    """Restore what `save` wrote, and return its position. Collective; every rank reads the file.

    A run resumed with the same number of ranks continues bit for bit, but where a strategy says
    that its `state` is a mean over ranks.

    Raises:
        FileNotFoundError, ValueError: no such file, a damaged one, or one of another model or
            optimizer; on every rank.
    """
    state = raise_together(strategy.comm, lambda: checkpoint.read(path))
    position = int(state.pop("position", np.array(0)))
    strategy.load_state(state)
    return position
