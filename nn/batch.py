"""Batches that know how many rows the whole step has, and read rows only when asked for them."""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray


def bounds(k: int, n: int, total: int) -> tuple[int, int]:
    """Half-open range of part `k` of `n` nearly equal parts of `total` items.

    The first `total % n` parts are one item longer; parts may be empty. Rows, neurons and
    parameters are all split by this function.

    Raises:
        ValueError: not 0 <= k < n, or total < 0.
    """
    if not 0 <= k < n:
        raise ValueError(f"part {k} of {n}: expected 0 <= part < number of parts")
    if total < 0:
        raise ValueError(f"cannot split {total} items: expected 0 or more")
    size, longer = divmod(total, n)
    lo = k * size + min(k, longer)
    return lo, lo + size + (k < longer)


class Batch:
    """Rows `x` with labels `y`: the *global* batch of one training step, or a part of it.

    Nothing is read before `x`, `y`, `part` or `read` is called, so a rank that holds the global
    batch of a memory-mapped data set reads only its own rows.

    Args:
        x: (n, ...) inputs: an array, a memory map, or anything that numpy can index. Kept as it is.
        y: (n,) integer class labels. Kept as it is.
        index: numbers of the rows of `x` and `y` that form the batch, in order; by default all.

    Raises:
        ValueError: x and y differ in length, y is not a vector of integers, or the index is not
            a vector of row numbers of x.
    """

    ends_epoch = False
    """Whether this is the last batch of an epoch; set by `Dataset.batches`."""

    def __init__(self, x: Any, y: Any, index: Sequence[int] | NDArray | None = None):
        # An object with a shape is kept as it is: np.asarray would read a lazy array whole.
        self._x = x if hasattr(x, "shape") else np.asarray(x)
        self._y = y if hasattr(y, "shape") else np.asarray(y)
        if self._y.ndim != 1 or not np.issubdtype(self._y.dtype, np.integer):
            raise ValueError(
                f"labels: expected a vector of integers, got {self._y.dtype} of shape "
                f"{tuple(self._y.shape)}"
            )
        if self._x.ndim < 1 or self._x.shape[0] != self._y.shape[0]:
            raise ValueError(
                f"x of shape {tuple(self._x.shape)} and y of shape {tuple(self._y.shape)}: "
                "expected one label per row"
            )
        n = self._y.shape[0]
        if index is None:
            self._rows: slice | NDArray = slice(0, n)  # where rows lie in _x and _y
        else:
            rows = np.asarray(index)
            if rows.size == 0:
                rows = rows.astype(np.intp)
            if rows.ndim != 1 or not np.issubdtype(rows.dtype, np.integer):
                raise ValueError(f"index: expected a vector of integers, got {rows.dtype}")
            if rows.size and (rows.min() < 0 or rows.max() >= n):
                raise ValueError(f"index: expected row numbers from 0 to {n - 1}")
            self._rows = rows
        self._row_ids = self._rows
        self.global_count = len(self)
        """Number of rows of the global batch, by which the loss is divided. Shards keep it."""

    def __len__(self) -> int:
        """Number of rows that this batch or shard holds."""
        if isinstance(self._rows, slice):
            return self._rows.stop - self._rows.start
        return self._rows.size

    @property
    def x(self) -> NDArray:
        """The inputs held, (len(self), ...)."""
        return np.asarray(self._x[self._rows])

    @property
    def y(self) -> NDArray:
        """The labels held, (len(self),)."""
        return np.asarray(self._y[self._rows])

    @property
    def row_ids(self) -> NDArray[np.integer]:
        """Numbers of the rows held, counted in the data that the batch was made from, (len(self),).

        Sharding a batch or reading it ahead does not change a row's number.
        """
        if isinstance(self._row_ids, slice):
            return np.arange(self._row_ids.start, self._row_ids.stop)
        return self._row_ids

    def shard(self, k: int, n: int) -> Self:
        """Part `k` of `n` of the rows held, as a batch with the same global count.

        Raises:
            ValueError: not 0 <= k < n.
        """
        lo, hi = bounds(k, n, len(self))
        part = self._copy()
        part._rows, part._row_ids = _cut(self._rows, lo, hi), _cut(self._row_ids, lo, hi)
        return part

    def as_global(self) -> Self:
        """The rows held as a global batch, so that its loss is the mean over these rows."""
        own = self.shard(0, 1)
        own.global_count = max(len(own), 1)  # without rows the loss is 0, not 0 / 0
        return own

    def part(self, k: int, n: int) -> tuple[NDArray, NDArray]:
        """Read the inputs and labels of `shard(k, n)`."""
        shard = self.shard(k, n)
        return shard.x, shard.y

    def read(self, k: int = 0, n: int = 1) -> Self:
        """Return this batch with part `k` of `n` in memory; other rows stay as lazy as before."""
        lo, hi = bounds(k, n, len(self))
        ready = self._copy()
        ready._x, ready._y = (_PartlyRead(a, self._rows, lo, hi) for a in (self._x, self._y))
        ready._rows = slice(0, len(self))
        return ready

    def _copy(self) -> Self:
        """Copy like copy.copy in a fifth of the time, because every step makes shards."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        return other


def _cut(rows: slice | NDArray, lo: int, hi: int) -> slice | NDArray:
    """The rows from the lo-th to before the hi-th."""
    if isinstance(rows, slice):
        return slice(rows.start + lo, rows.start + hi)
    return rows[lo:hi]


class _PartlyRead:
    """Some rows of an array, of which `lo` to `hi` are in memory and the others lazy."""

    def __init__(self, array: Any, rows: slice | NDArray, lo: int, hi: int):
        self._array, self._rows, self._lo, self._hi = array, rows, lo, hi
        own = _cut(rows, lo, hi)
        # A slice of a memory map would be a view, and nothing would have been read.
        self._ready = np.array(array[own], copy=isinstance(own, slice) or None)

    def __getitem__(self, rows: slice) -> Any:
        if self._lo <= rows.start and rows.stop <= self._hi:
            return self._ready[rows.start - self._lo : rows.stop - self._lo]
        return self._array[_cut(self._rows, rows.start, rows.stop)]
