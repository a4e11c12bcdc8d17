"""Batches that know how many rows the whole step has, and read rows only when asked for them."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, Self

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


class Counting(Protocol):
    """What a batch needs to know of a loss, see `nn.loss.Loss`."""

    counts_by_shape: bool

    def count(self, targets: NDArray, weights: NDArray | None = None) -> float: ...


class Batch:
    """Rows `x` with targets `y`: the *global* batch of one training step, or a part of it.

    Nothing is read before `x`, `y`, `part` or `read` is called, so a rank that holds the global
    batch of a memory-mapped data set reads only its own rows.

    Args:
        x: (n, ...) inputs: an array, a memory map, or anything that numpy can index; for models of
            several inputs, a tuple or a dict of these. Kept as it is.
        y: (n, ...) targets: class numbers, or what else the loss takes. Kept as it is.
        index: numbers of the rows of `x` and `y` that form the batch, in order; by default all.
        weights: (n,) numbers of 0 or more, by which the loss multiplies the losses of the rows; by
            default 1.

    Tensors of torch are read as arrays in the same memory.

    Raises:
        TypeError: an array of a kind that cannot be trained on (masked arrays, whose mask would be
            lost; objects, strings, complex numbers).
        ValueError: x, y and weights differ in length, a weight is negative, or the index is not a
            vector of row numbers of x.
    """

    ends_epoch = False
    """Whether this is the last batch of an epoch; set by `Dataset.batches`."""

    def __init__(
        self,
        x: Any,
        y: Any,
        index: Sequence[int] | NDArray | None = None,
        weights: Sequence[float] | NDArray | None = None,
    ):
        several = isinstance(x, dict) or (
            isinstance(x, tuple) and hasattr(next(iter(x), 0), "shape")
        )
        self._x = map_arrays(as_numbers, x, "x") if several else as_numbers(x, "x")
        self._y = as_numbers(y, "y")
        for name, array in named_arrays(self._x, "x"):
            if array.ndim < 1 or self._y.ndim < 1 or array.shape[0] != self._y.shape[0]:
                raise ValueError(
                    f"{name} of shape {tuple(array.shape)} and y of shape {tuple(self._y.shape)}: "
                    "expected one label per row, or one target of another kind"
                )
        n = self._y.shape[0]
        self._target_shape: tuple[int, ...] = tuple(self._y.shape[1:])
        self._weights = None if weights is None else np.asarray(weights)
        if self._weights is not None and (
            self._weights.shape != (n,)
            or self._weights.dtype.kind not in "iuf"
            or not (self._weights >= 0).all()
        ):
            raise ValueError(
                f"weights of shape {self._weights.shape}: expected a number of 0 or more for each "
                f"of {n} rows"
            )
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
        self._begin()

    def _begin(self) -> None:
        """Make the rows held the global batch."""
        self.global_rows = Batch.__len__(self)
        """Number of rows of the global batch. Shards keep it."""
        self._whole: Self | None = None  # the global batch, if this is a part of one
        self._counts: dict[Counting, float] = {}  # of the global batch, shared by its parts

    @staticmethod
    def local(x: Any, y: Any, comm: Any, weights: Any = None) -> "Batch":
        """Make a global batch of rows of which each rank has its own, of any number. Collective.

        For programs with a data loader on each rank. Data-parallel strategies train on it; the
        global counts come by communication. Arguments and errors are as for `LocalBatch`.
        """
        from nn.local_batch import LocalBatch  # which is a subclass

        return LocalBatch(x, y, comm, weights)

    def __len__(self) -> int:
        """Number of rows that this batch or shard holds."""
        if isinstance(self._rows, slice):
            return self._rows.stop - self._rows.start
        return self._rows.size

    @property
    def x(self) -> Any:
        """The inputs held, (len(self), ...): an array, or a tuple or dict of arrays."""
        if type(self._x) not in (tuple, dict):
            return np.asarray(self._x[self._rows])
        return map_arrays(lambda array, name: np.asarray(array[self._rows]), self._x, "x")

    @property
    def y(self) -> NDArray:
        """The targets held, (len(self), ...)."""
        return np.asarray(self._y[self._rows])

    @property
    def weights(self) -> NDArray | None:
        """The weights of the rows held, (len(self),); None if all weigh 1."""
        return None if self._weights is None else self._weights[self._rows]

    @property
    def global_count(self) -> int:
        """Number of targets in the global batch (rows, tokens, pixels or numbers); at least 1."""
        return max(math.prod(self._global_shape()), 1)

    def _global_shape(self) -> tuple[int, ...]:
        """Shape of `y` of the global batch."""
        return (self.global_rows, *self._target_shape)

    def count(self, loss: Counting) -> float:
        """What the loss of the global batch is divided by. Shards have the count of the whole.

        If it depends on the values of the targets, those of the global batch are read.
        """
        if loss not in self._counts:
            if loss.counts_by_shape and self._weights is None:
                self._counts[loss] = loss.count(np.broadcast_to(0, self._global_shape()))
            else:
                self._counts[loss] = self._count_by_value(loss)
        return self._counts[loss]

    def _count_by_value(self, loss: Counting) -> float:
        whole = self._whole or self
        return loss.count(whole.y, whole.weights)

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
        part._whole = self if self._whole is None else self._whole
        part._rows, part._row_ids = _cut(self._rows, lo, hi), _cut(self._row_ids, lo, hi)
        return part

    def as_global(self) -> Self:
        """The rows held as a global batch, so that its loss is the mean over these rows."""
        own = self._copy()
        own._begin()
        return own

    def part(self, k: int, n: int) -> tuple[Any, NDArray]:
        """Read the inputs and targets of `shard(k, n)`."""
        shard = self.shard(k, n)
        return shard.x, shard.y

    def read(self, k: int = 0, n: int = 1) -> Self:
        """Return this batch with part `k` of `n` in memory; other rows stay as lazy as before."""
        lo, hi = bounds(k, n, len(self))

        def read(array: Any, name: str = "") -> _PartlyRead:
            return _PartlyRead(array, self._rows, lo, hi)

        ready = self._copy()
        several = type(self._x) in (tuple, dict)
        ready._x = map_arrays(read, self._x, "x") if several else read(self._x)
        ready._y = read(self._y)
        ready._weights = self.weights
        ready._rows = slice(0, len(self))
        return ready

    def _copy(self) -> Self:
        """Copy like copy.copy in a fifth of the time, because every step makes shards."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        return other


def as_array(value: Any, name: str) -> Any:
    """Return what numpy can index, as it is; a tensor of torch as an array.

    Raises:
        ValueError: numpy would lose something: a mask, or a dtype that it lacks.
    """
    if isinstance(value, np.ma.MaskedArray):
        raise ValueError(
            f"{name} is a masked array: its mask would be lost; expected a plain array, and the "
            "mask as another input, or as labels that the loss ignores"
        )
    if callable(getattr(value, "detach", None)):  # a tensor of torch, which is not imported here
        try:
            value = value.detach().cpu().numpy()
        except TypeError as error:
            raise ValueError(f"{name} is {value.dtype}, which numpy lacks: {error}") from None
    # An object with a shape is kept as it is: np.asarray would read a lazy array whole.
    return value if hasattr(value, "shape") else np.asarray(value)


def as_numbers(value: Any, name: str) -> Any:
    """Return an array of numbers, like `as_array`.

    Raises:
        ValueError: as `as_array`; or it holds objects, strings or complex numbers.
    """
    array = as_array(value, name)
    dtype = getattr(array, "dtype", None)
    if isinstance(dtype, np.dtype) and dtype.kind not in "biuf":
        raise ValueError(f"{name} is {dtype}: expected whole or floating-point numbers, or bools")
    return array


def named_arrays(x: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yield the arrays of a model's inputs with names: x, or x[0] and x[1], or x['ids']."""
    if type(x) in (tuple, dict):
        for key, array in x.items() if isinstance(x, dict) else enumerate(x):
            yield f"{name}[{key!r}]", array
    else:
        yield name, x


def map_arrays(function: Callable[[Any, str], Any], x: Any, name: str) -> Any:
    """Call a function with each of several inputs and its name; keep the tuple or dict."""
    found = [function(array, of) for of, array in named_arrays(x, name)]
    return dict(zip(x, found)) if isinstance(x, dict) else tuple(found)


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
