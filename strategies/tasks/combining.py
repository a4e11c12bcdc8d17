"""Ways to combine what the members of an ensemble make of rows."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

WAYS = ("soft", "hard", "stacked")

Combine = Callable[[Sequence[NDArray]], NDArray[np.int64]]
"""The probabilities of each member, (n, classes) -> the class of each row, (n,)."""


def soft(probabilities: Sequence[NDArray]) -> NDArray[np.int64]:
    """Return the class of the largest mean probability of each row, (n,).

    Args:
        probabilities: of each member, (n, classes).
    """
    return np.mean(probabilities, axis=0, dtype=np.float64).argmax(axis=1)


def hard(probabilities: Sequence[NDArray]) -> NDArray[np.int64]:
    """Return the class that most members take each row for, (n,); of equal ones the first.

    Args:
        probabilities: of each member, (n, classes).
    """
    chosen = np.stack([each.argmax(axis=1) for each in probabilities])
    classes = probabilities[0].shape[1]
    votes = np.stack([(chosen == label).sum(axis=0) for label in range(classes)], axis=1)
    return votes.argmax(axis=1)


class Stacked:
    """A meta-learner: logistic regression on the probabilities of all members.

    Wolpert, "Stacked generalization" (1992): it is fitted on predictions for rows that the members
    were not trained on, and has to be given those.

    Args:
        probabilities: of each member, (n, classes), for rows that it has not seen.
        y: (n,) the classes of these rows.
    """

    def __init__(self, probabilities: Sequence[NDArray], y: NDArray):
        from sklearn.linear_model import LogisticRegression  # slow to import

        self._learner = LogisticRegression(max_iter=1_000)
        self._learner.fit(_side_by_side(probabilities), y)

    def __call__(self, probabilities: Sequence[NDArray]) -> NDArray[np.int64]:
        """Return a class for each row, (n,)."""
        return self._learner.predict(_side_by_side(probabilities))


def _side_by_side(probabilities: Sequence[NDArray]) -> NDArray[np.float64]:
    return np.concatenate(probabilities, axis=1, dtype=np.float64)
