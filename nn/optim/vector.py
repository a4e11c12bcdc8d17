"""Operations on flat vectors, numpy arrays and torch tensors alike."""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

Vector = Any
"""A flat float vector: a numpy array or a torch tensor."""

Schedule = Callable[[int], float]
"""A function from the number of steps taken to a learning rate; see `nn.lr_schedules`."""

CHUNK = 1 << 13
"""Elements that are converted to float64 at a time, so that they stay in the cache."""


def zeros_like(vector: Vector) -> Vector:
    """A vector of zeros of the same kind, length and dtype."""
    return (
        np.zeros_like(vector) if isinstance(vector, np.ndarray) else vector.new_zeros(len(vector))
    )


def lacks_gradient(part: Vector) -> bool:
    """Whether the gradient of a part of the parameters is all `NO_GRADIENT`."""
    elements = np.asarray(part)
    return bool(len(elements)) and not elements.any() and bool(np.signbit(elements).all())


def multiply(vector: Vector, factor: float, out: Vector) -> None:
    """Write vector * factor into `out`, without allocating memory."""
    if isinstance(vector, np.ndarray):
        np.multiply(vector, factor, out=out)
    else:
        out.copy_(vector).mul_(factor)


def clamp(vector: Vector, limit: float) -> None:
    """Bring every element in place to between -limit and limit; NaN stays NaN."""
    if isinstance(vector, np.ndarray):
        np.clip(vector, -limit, limit, out=vector)
    else:
        vector.clamp_(-limit, limit)


def norm_part(vectors: Iterable[Vector], order: float) -> float:
    """What some vectors add to a norm, in float64: see `join_norm_parts`.

    Args:
        order: 2 gives the sum of squares, infinity the largest magnitude.
    """
    chunks = (chunk for vector in vectors for chunk in _chunks(vector))
    if order == math.inf:  # NaN if one element is
        return join_norm_parts((float(np.abs(chunk).max()) for chunk in chunks), order)
    # Not np.dot: its bits depend on where memory begins.
    return join_norm_parts((float(np.square(chunk).sum()) for chunk in chunks), order)


def join_norm_parts(parts: Iterable[float], order: float) -> float:
    """The largest part for order infinity, or else the sum; NaN if one part is."""
    return float(np.max([0.0, *parts]) if order == math.inf else np.sum([*parts]))


def norm_of_part(part: float, order: float) -> float:
    """The norm that belongs to the part of all elements."""
    return part if order == math.inf else math.sqrt(part)


def _chunks(vector: Vector) -> Iterator[Any]:
    if not isinstance(vector, np.ndarray):
        if len(vector):
            yield vector.detach().double().cpu().numpy()
        return
    for at in range(0, len(vector), CHUNK):
        yield vector[at : at + CHUNK].astype(np.float64, copy=False)
