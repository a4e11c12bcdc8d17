"""How many steps a training needs until enough rows are sorted right."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nn import SGD, Batch
from nn.data import Dataset
from strategies import History, Sequential, Strategy, train
from strategies.tasks.fitting import validation_rows
from strategies.tasks.models import Builder

ROWS_BETWEEN = 128
"""Rows that are trained on between two looks at the accuracy; at least one step is."""

STEPS_OF_AN_EPOCH = 25
"""Steps beside those of its rows that count as an epoch, in which large batches have few."""


def budget(rows: int, batch_size: int, epochs: int) -> int:
    """Return the steps that a training may take at most.

    Small batches need a number of rows, and large ones a number of steps (`regimes.Curve`). So that
    neither is cut off sooner, an epoch is a number of both.
    """
    return epochs * (rows // batch_size + STEPS_OF_AN_EPOCH)


@dataclass(frozen=True)
class FullBatches:
    """The batches of a data set that have all their rows, as many as are allowed.

    The last batch of an epoch may be smaller. As a step it would count like any other.
    """

    dataset: Dataset
    allowed: int

    @property
    def name(self) -> str:
        return self.dataset.name

    @property
    def x(self) -> NDArray:
        return self.dataset.x

    def batches(self, batch_size: int, epochs: int, seed: int, start: int) -> Iterator[Batch]:
        every = self.dataset.batches(batch_size, epochs, seed)
        full = (batch for batch in every if batch.global_rows == batch_size)
        return islice(full, start, self.allowed)


def steps_to_target(
    strategy: Strategy,
    dataset: Dataset,
    accuracy: Callable[[NDArray], float],
    *,
    batch_size: int,
    target: float,
    allowed: int,
    seed: int,
) -> float:
    """Train until `accuracy(weights)` is `target`, and return the steps; infinity if it never is.

    Collective; the same number on every rank. The accuracy is looked at every ROWS_BETWEEN rows. A
    training whose weights are not finite any more has ended.
    """

    def arrived(history: History) -> bool:
        return any(not look.values["accuracy"] < target for look in history.evaluations[-1:])

    def look(weights: NDArray) -> dict[str, float]:
        finite = bool(np.isfinite(weights).all())
        return {"accuracy": accuracy(weights) if finite else math.nan}

    every = max(1, ROWS_BETWEEN // batch_size)
    allowed -= allowed % every  # a look between two others would find the target sooner than these
    with np.errstate(all="ignore"):  # a learning rate that is too high is an outcome like others
        history = train(
            strategy,
            FullBatches(dataset, allowed),
            batch_size=batch_size,
            epochs=math.ceil(allowed / (len(dataset.x) // batch_size)),
            seed=seed,
            every=every,
            evaluate=look,
            on_step=arrived,
        )
    looks = history.evaluations
    return next((float(each.step) for each in looks if each.values["accuracy"] >= target), math.inf)


def accuracy_of(build: Builder, x: NDArray, y: NDArray) -> Callable[[NDArray], float]:
    """Make a function from weights to the share of the rows that they sort right."""
    judge = build(seed=0)

    def accuracy(weights: NDArray) -> float:
        judge.params[:] = weights
        return float((judge.predict(x) == y).mean())

    return accuracy


@dataclass(frozen=True)
class Tuning:
    """The function of the tasks of tuning: a plain training, and its steps on validation rows.

    Attributes:
        dataset: with validation rows.
        build: makes the model.
        target: share of the validation rows that is to be right.
    """

    dataset: Dataset
    build: Builder
    target: float

    def __call__(self, task: dict[str, Any]) -> float:
        """Return the steps of a task of `bench.studies.tuning.tune`; it trains with seed 0."""
        optimizer = SGD(task["lr"], momentum=task["momentum"])
        return steps_to_target(
            Sequential(self.build(seed=0), optimizer),
            self.dataset,
            accuracy_of(self.build, *validation_rows(self.dataset)),
            batch_size=task["batch_size"],
            target=self.target,
            allowed=task["allowed"],
            seed=0,
        )
