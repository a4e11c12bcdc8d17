"""A net as an estimator of scikit-learn, so that its own tools can train the same nets."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin

from nn.data import Dataset
from strategies import Sequential
from strategies.tasks.fitting import fit


class NetClassifier(ClassifierMixin, BaseEstimator):
    """A net that is built and trained anew by each `fit`.

    Args:
        model: a function that builds it, called with `seed=` and the entries of `arguments`.
        optimizer: a function without arguments that makes the optimizer; with `lr`, a function of
            the rate.
        batch_size, epochs: as for `strategies.train`.
        lr: the learning rate, if `optimizer` takes one.
        width: an argument of the model, if it takes one.
        seed: of the initial weights and the order of rows.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        optimizer: Callable[..., Any],
        batch_size: int = 64,
        epochs: int = 1,
        lr: float | None = None,
        width: int | None = None,
        seed: int = 0,
    ):
        self.model, self.optimizer = model, optimizer
        self.batch_size, self.epochs = batch_size, epochs
        self.lr, self.width, self.seed = lr, width, seed

    def fit(self, x: NDArray, y: NDArray) -> "NetClassifier":
        """Train on rows (n, d) with classes (n,) from 0 on."""
        self.classes_ = np.unique(y)
        rows = Dataset("rows", x, y, x[:0], y[:0], classes=len(self.classes_))
        size = {} if self.width is None else {"width": self.width}
        self.net_ = self.model(seed=self.seed, **size)
        optimizer = self.optimizer() if self.lr is None else self.optimizer(self.lr)
        fit(
            Sequential(self.net_, optimizer),
            rows,
            batch_size=self.batch_size,
            epochs=self.epochs,
            seed=self.seed,
        )
        return self

    def predict(self, x: NDArray) -> NDArray:
        """Return the class of each row, (n,)."""
        return self.net_.predict(x)
