"""The preparation of a data set: raw rows become float32 arrays in four steps.

1. check: finite values, labels in range, shapes that fit (`raw.check`);
2. divide into training and test rows, keep `size` training rows, and set some of these aside to
   validate if that is asked for (`raw.divide`);
3. normalise to mean 0 and standard deviation 1 over the training rows. All pixels of images share
   one mean and one deviation (their columns share a unit, and blank border pixels have no
   deviation); other columns have their own;
4. project onto the first `features` principal components of the training rows.

Everything is fitted on the training rows only, and then applied to the others. Rows that validate
are no training rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nn.data.raw import CHUNK, Raw, check, divide
from nn.data.validation import Fold

if (
    TYPE_CHECKING
):  # scikit-learn takes a second to import, and a rank that maps a set does not need it
    from sklearn.preprocessing import StandardScaler


def prepare(
    raw: Raw,
    size: int | None,
    seed: int,
    features: int | None,
    normalise: bool,
    validation: float | Fold | None = None,
) -> Iterator[tuple[str, tuple[int, ...], Iterator[NDArray]]]:
    """Yield the arrays of the prepared set as (name, shape, rows in chunks).

    They are x and y, x_validation and y_validation if `validation` is given, x_test and y_test.

    Args:
        raw: the rows.
        size: number of training rows to keep, or None for all.
        seed: seed of the division and of the choice of training rows.
        features: number of principal components, or None to keep the columns.
        normalise: whether to take step 3.
        validation: a share of the training rows to set aside, or a fold.

    Raises:
        ValueError: the rows make no data set, `size` exceeds the number of training rows, or
            `features` exceeds the number of training rows or of columns.
    """
    check(raw)
    (x, y), held, test = divide(raw, size, seed, validation)
    rows, columns = x.shape
    if features is not None and features > min(rows, columns):
        raise ValueError(
            f"features={features}: {raw.origin} has {rows} training rows of {columns} columns; "
            f"expected at most {min(rows, columns)} features"
        )
    scaler = _fit_scaler(x, raw) if normalise else None

    def normal(x: NDArray) -> Iterator[NDArray[np.float32]]:
        for chunk in _chunks(x):
            if scaler is not None:
                chunk = scaler.transform(_columns(chunk, raw)).reshape(chunk.shape)
            with np.errstate(over="ignore"):
                single = chunk.astype(np.float32)
            if not np.isfinite(single).all():
                raise ValueError(f"{raw.origin}: values too large for float32; rescale them")
            yield single

    def final(x: NDArray) -> Iterator[NDArray[np.float32]]:
        return normal(x) if pca is None else map(pca.transform, normal(x))

    pca = None
    if features is not None:
        from sklearn.decomposition import PCA

        # The eigenvectors of the d x d covariance are exact, and many times faster than the SVD of
        # n x d for n >> d. Only this step holds the training rows as float32 in memory.
        pca = PCA(features, svd_solver="covariance_eigh").fit(np.concatenate([*normal(x)]))

    width = columns if features is None else features
    for suffix, part in (("", (x, y)), ("_validation", held), ("_test", test)):
        if part is not None:
            yield f"x{suffix}", (len(part[0]), width), final(part[0])
            yield f"y{suffix}", part[1].shape, iter([part[1]])


def _chunks(x: NDArray) -> Iterator[NDArray[np.float64]]:
    return (x[lo : lo + CHUNK].astype(np.float64) for lo in range(0, len(x), CHUNK))


def _columns(chunk: NDArray, raw: Raw) -> NDArray:
    """Rows for the scaler, which treats each column alike: all pixels of images in one column."""
    return chunk.reshape(-1, 1) if raw.images else chunk


def _fit_scaler(x: NDArray, raw: Raw) -> StandardScaler:
    """Fit means and deviations in float64; a constant column is only shifted.

    Raises:
        ValueError: values are too large.
    """
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler()
    with np.errstate(over="ignore", invalid="ignore"):
        for chunk in _chunks(x):
            scaler.partial_fit(_columns(chunk, raw))
    if not np.isfinite(scaler.var_).all():
        raise ValueError(f"{raw.origin}: values too large to be normalised; rescale them")
    return scaler
