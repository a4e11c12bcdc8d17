"""Prepared data sets: memory-mapped arrays, and the seeded order of the rows in a training."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nn.batch import Batch
from nn.data.formats import arrays
from nn.data.order import batches_in_order, steps_per_epoch
from nn.data.validation import Fold


@dataclass(frozen=True, eq=False)
class Dataset:
    """Training and test rows, read-only and memory-mapped, so a row is read only when it is used.

    A set from `nn.data.load` is pickled as the arguments of that call. The process that unpickles
    it maps the same files, so no row is sent.

    Attributes:
        name: name of the source.
        x: (n, d) float32 training inputs; images are flattened in C order, (1, 28, 28) to 784.
        y: (n,) int64 training labels, 0..classes-1.
        x_test: (m, d) float32 test inputs.
        y_test: (m,) int64 test labels.
        classes: number of classes.
        x_validation: (v, d) float32 inputs that were set aside of the training rows, or None.
        y_validation: (v,) int64 labels of these, or None.
        reload: loads the set again, with other arguments of `nn.data.load` where they are given;
            None for a set that `load` did not make, also for a changed copy of one of its sets.
    """

    name: str
    x: NDArray[np.float32]
    y: NDArray[np.int64]
    x_test: NDArray[np.float32]
    y_test: NDArray[np.int64]
    classes: int
    x_validation: NDArray[np.float32] | None = None
    y_validation: NDArray[np.int64] | None = None
    # No argument, so that `dataclasses.replace`, which gives other rows, does not hand it on.
    reload: Callable[..., "Dataset"] | None = field(default=None, init=False)

    def __repr__(self) -> str:
        rows, columns = self.x.shape
        held = "" if self.x_validation is None else f", {len(self.x_validation):,} validation"
        return (
            f"<Dataset {self.name}: {rows:,} training{held} and {len(self.x_test):,} test rows, "
            f"{columns} features, {self.classes} classes>"
        )

    def __reduce_ex__(self, protocol: Any) -> Any:
        return super().__reduce_ex__(protocol) if self.reload is None else (self.reload, ())

    def fold(self, number: int, of: int, stratified: bool = True, seed: int = 0) -> "Dataset":
        """Return this set with one of `of` parts of its training rows set aside to validate.

        Rows are normalised and projected anew, by what is fitted on the other parts only.

        Args:
            number, of, stratified, seed: as for `nn.data.Fold`.

        Raises:
            TypeError, ValueError: as `nn.data.Fold`; or the set is not from `nn.data.load`, or has
                validation rows already.
        """
        if self.reload is None:
            raise ValueError(
                f"{self.name}: expected a set from nn.data.load, whose rows can be prepared anew "
                'for each fold; save yours with save(path), and load("file", path=path)'
            )
        if self.x_validation is not None:
            raise ValueError(
                f"{self.name}: some rows are set aside already; expected a set that was loaded "
                "without validation="
            )
        return self.reload(validation=Fold(number, of, stratified, seed))

    def steps_per_epoch(self, batch_size: int) -> int:
        """Number of batches in an epoch; a last, partial batch counts.

        Raises:
            TypeError: batch_size is not a whole number.
            ValueError: batch_size < 1.
        """
        return steps_per_epoch(len(self.x), batch_size)

    def batches(
        self,
        batch_size: int,
        epochs: int = 1,
        seed: int = 0,
        start: int = 0,
        *,
        prefetch: int = 0,
        part: tuple[int, int] = (0, 1),
    ) -> Iterator[Batch]:
        """Iterate over global batches in a seeded order; each epoch shuffles all rows anew.

        The order depends on (seed, epoch) only: every rank draws the same one, and a run that
        resumes after `start` steps continues as if it had not stopped. Batches are lazy: no row
        is read before a rank asks for its part. The order itself takes 4 bytes per row of the
        set on every rank (0.1% of a set of images).

        Args:
            batch_size: rows per batch; the last batch of an epoch may be smaller.
            epochs: number of epochs, counted from the beginning, not from `start`.
            seed: seed of the order.
            start: number of batches already done; they are skipped without being read.
            prefetch: number of batches that a thread reads ahead of the step; see
                `nn.data.prefetch`.
            part: (k, n): the thread reads shard `k` of `n` of each batch. Without prefetching,
                rows are read when they are used, and it changes nothing.

        Raises:
            TypeError: an argument is not a whole number.
            ValueError: batch_size < 1, another number is negative, or there is no such part.
        """
        make = partial(Batch, self.x, self.y)
        rows = len(self.x)
        return batches_in_order(make, rows, batch_size, epochs, seed, start, prefetch, part)

    def save(self, path: str | PathLike[str]) -> None:
        """Write x, y, x_test, y_test and classes to a `.npz` or `.mat` file, whole or not at all.

        `load("file", path=path, normalise=False)` reads the same set back, bit for bit.

        Raises:
            ValueError: the name ends in neither .npz nor .mat, or the set has validation rows.
            OSError: the file cannot be written.
        """
        if self.x_validation is not None:
            raise ValueError(
                f"{self.name}: the file has no place for validation rows; expected a set that was "
                "loaded without validation="
            )
        arrays.write(
            Path(path),
            {
                "x": self.x,
                "y": self.y,
                "x_test": self.x_test,
                "y_test": self.y_test,
                "classes": np.array(self.classes),
            },
        )
