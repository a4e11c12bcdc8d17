"""Which training rows are set aside to validate: a share of them, or one of k folds."""

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nn.arguments import as_float, as_int

LARGEST_SEED = 2**32 - 1
"""The largest seed that scikit-learn takes."""


@dataclass(frozen=True)
class Fold:
    """One of the parts of k-fold cross-validation: its rows validate, all others train.

    The parts of one `of`, `stratified` and `seed` are disjoint, and together they are all training
    rows. Kohavi, "A study of cross-validation and bootstrap for accuracy estimation and model
    selection" (1995), section 2.2.

    Attributes:
        number: which part, from 0 to `of` - 1.
        of: the number of parts, k.
        stratified: whether every part has every class in proportion.
        seed: seed of the division.

    Raises:
        TypeError: a number is not a whole number, or stratified is not a bool.
        ValueError: there is no such part, fewer than 2 parts, or another seed than scikit-learn
            takes.
    """

    number: int
    of: int
    stratified: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        as_int("of", self.of, 2)
        as_int("number", self.number, 0, self.of - 1)
        as_int("seed", self.seed, 0, LARGEST_SEED)
        if not isinstance(self.stratified, bool):
            raise TypeError(f"stratified={self.stratified!r}: expected True or False")


def as_validation(value: float | Fold | None) -> float | Fold | None:
    """Return `value`, checked.

    Raises:
        TypeError: it is neither a number, a fold nor None.
        ValueError: it is a number that is not above 0 and below 1.
    """
    if value is None or isinstance(value, Fold):
        return value
    share = as_float("validation", value, 0.0, 1.0)
    if not share:
        raise ValueError("validation=0: expected a share above 0 and below 1, or None")
    return share


def hold_out(
    y: NDArray[np.int64], validation: float | Fold, seed: int, origin: str
) -> tuple[NDArray, NDArray]:
    """Divide row numbers into those that train and those that validate, each in ascending order.

    Args:
        y: (n,) labels of the training rows.
        validation: a share of the rows, drawn with every class in proportion, or a fold.
        seed: seed of the draw of a share; a fold has its own.
        origin: where the rows come from, for error messages.

    Raises:
        ValueError: there are too few rows, of some class or at all.
    """
    try:
        if isinstance(validation, Fold):
            return _fold(y, validation)
        return _share(y, validation, seed)
    except (ValueError, UserWarning) as error:
        raise ValueError(
            f"{origin}: {len(y)} training rows cannot be divided by validation={validation} "
            f"({error}); expected more rows of every class, or fewer parts"
        ) from None


def _share(y: NDArray, share: float, seed: int) -> tuple[NDArray, NDArray]:
    from sklearn.model_selection import train_test_split  # slow to import; not needed when cached

    parts = train_test_split(np.arange(len(y)), test_size=share, stratify=y, random_state=seed)
    train, held = map(np.sort, parts)
    return train, held


def _fold(y: NDArray, fold: Fold) -> tuple[NDArray, NDArray]:
    from sklearn.model_selection import KFold, StratifiedKFold

    splitter = StratifiedKFold if fold.stratified else KFold
    splits = splitter(fold.of, shuffle=True, random_state=fold.seed).split(y, y)
    with warnings.catch_warnings():
        # scikit-learn only warns of a class that has too few rows to be in every fold.
        warnings.simplefilter("error", UserWarning)
        return list(splits)[fold.number]
