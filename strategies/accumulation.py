"""Gradient accumulation: rows are computed in parts, one after the other, before one update."""

from collections.abc import Callable
from typing import Any

from nn.batch import Batch


def gradients_in_parts(
    gradients: Callable[..., float],
    rows: Batch,
    parts: int,
    add: bool = False,
    ready: Callable[[int], None] | None = None,
) -> float:
    """Write the gradient of some rows, computed in nearly equal parts; return their loss.

    Between two parts only the gradient is kept, so activations take the memory of one part. Each
    part is divided by the count of the whole batch, so the parts add up to the gradient of all
    rows, and some may be empty.

    Args:
        gradients: that of a model, see `strategies.base.Trainable`.
        rows: the rows of this rank.
        parts: how many; 1 computes all rows at once.
        add: add to the gradient that is there, instead of replacing it.
        ready: called as by `Model.gradients`, but in the last part only, which completes the sum.
    """
    if parts == 1 and not add and not ready:
        return gradients(rows)
    losses = []
    for i in range(parts):
        settings: dict[str, Any] = {}
        if add or i:
            settings["add"] = True
        if ready and i == parts - 1:
            settings["ready"] = ready
        part = rows.shard(i, parts) if parts > 1 else rows
        losses.append(gradients(part, **settings))
    return losses[0] if parts == 1 else sum(losses)
