"""From raw rows to the float32 arrays of a prepared set, always in this order:

1. check: finite values, labels in range, shapes that fit (`raw.check`);
2. divide into training and test rows, keep `size` training rows (`raw.divide`);
3. normalise: mean 0, deviation 1 over the training rows; one mean and one deviation for all
   pixels of images (their columns share a unit, and blank border pixels have no deviation), one
   per column otherwise;
4. project onto the first `features` principal components of the training rows.

What is fitted is fitted on the training rows alone, and applied to the test rows.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from nn.data.raw import CHUNK, Raw, check, divide


def prepare(
    raw: Raw, size: int | None, seed: int, features: int | None, normalise: bool
) -> Iterator[tuple[str, tuple[int, ...], Iterator[NDArray]]]:
    """The arrays x, y, x_test, y_test of the prepared set as (name, shape, its rows in chunks).

    Raises:
        ValueError: the rows make no data set, `size` exceeds the training rows, or `features`
            exceeds the training rows or the columns.
    """
    check(raw)
    raw = divide(raw, size, seed)
    assert raw.x_test is not None and raw.y_test is not None
    rows, columns = raw.x.shape
    if features is not None and features > min(rows, columns):
        raise ValueError(
            f"features={features}: {raw.origin} has {rows} training rows of {columns} columns; "
            f"expected at most {min(rows, columns)} features"
        )
    shift, scale = _moments(raw) if normalise else (np.float64(0), np.float64(1))

    def normal(x: NDArray) -> Iterator[NDArray[np.float32]]:
        for lo in range(0, len(x), CHUNK):
            with np.errstate(over="ignore"):
                chunk = ((x[lo : lo + CHUNK] - shift) / scale).astype(np.float32)
            if not np.isfinite(chunk).all():
                raise ValueError(f"{raw.origin}: values too large for float32; rescale them")
            yield chunk

    def final(x: NDArray) -> Iterator[NDArray[np.float32]]:
        return normal(x) if pca is None else map(pca.transform, normal(x))

    pca = None
    if features is not None:
        from sklearn.decomposition import PCA

        # The eigenvectors of the d x d covariance: exact, and many times faster than the SVD of
        # n x d for n >> d. The one step that holds the training rows as float32 in memory.
        pca = PCA(features, svd_solver="covariance_eigh").fit(np.concatenate([*normal(raw.x)]))

    width = columns if features is None else features
    yield "x", (rows, width), final(raw.x)
    yield "y", (rows,), iter([raw.y])
    yield "x_test", (len(raw.x_test), width), final(raw.x_test)
    yield "y_test", (len(raw.y_test),), iter([raw.y_test])


def _moments(raw: Raw) -> tuple[NDArray, NDArray]:
    """Mean and deviation of the training rows, of everything or by column; deviation 0 becomes 1.

    Two passes in float64: sums of squares would lose what a large mean has in common.
    """
    over = None if raw.images else 0
    shift = raw.x.mean(axis=over, dtype=np.float64)
    chunks = (raw.x[lo : lo + CHUNK] - shift for lo in range(0, len(raw.x), CHUNK))
    squares = sum(np.square(chunk).sum(axis=over) for chunk in chunks)
    scale = np.sqrt(squares / (raw.x.size if raw.images else len(raw.x)))
    if not np.isfinite(scale).all():
        raise ValueError(f"{raw.origin}: values too large to be normalised; rescale them")
    return shift, np.where(scale > 0, scale, 1)
