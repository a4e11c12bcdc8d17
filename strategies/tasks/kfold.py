"""K-fold cross-validation: every model with every learning-rate schedule on every fold."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nn.data import Dataset
from nn.optim import SGD
from strategies.records import Record
from strategies.tasks.executors import in_words
from strategies.tasks.fitting import check_terms, digest, score, validation_rows
from strategies.tasks.fold_training import FoldTraining
from strategies.tasks.models import Builder, as_builders
from strategies.tasks.run import run_tasks
from strategies.tasks.schedules import Maker, as_makers
from strategies.tasks.text_table import text_table
from strategies.training import History


@dataclass(frozen=True)
class FoldScore:
    """What one training, of one fold, came to.

    Attributes:
        right, rows: of each class, how many held-out rows were sorted right, and how many it has.
        loss: of the last training step.
        seconds: of the task in its worker.
        weights: digest of the trained parameters; equal only if all bits are.
        error: what happened if the training failed; the rest is then empty.
    """

    right: list[int] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    loss: float = math.nan
    seconds: float = 0.0
    weights: str = ""
    error: str | None = None

    @property
    def accuracy(self) -> float:
        """Share of held-out rows that were sorted right; nan if the training failed."""
        return sum(self.right) / sum(self.rows) if self.rows else math.nan


@dataclass(frozen=True)
class Scores:
    """A model with a schedule, on all folds.

    Attributes:
        folds: the score on each fold.
    """

    model: str
    schedule: str
    folds: list[FoldScore]

    @property
    def accuracies(self) -> list[float]:
        """Accuracy on the held-out rows of each fold."""
        return [fold.accuracy for fold in self.folds]

    @property
    def mean(self) -> float:
        """Mean accuracy over folds; nan if the training of a fold failed."""
        return float(np.mean(self.accuracies))

    @property
    def spread(self) -> float:
        """Standard deviation of the accuracy over folds, with k - 1 in its denominator."""
        return float(np.std(self.accuracies, ddof=1))

    @property
    def of_class(self) -> list[float]:
        """Of each class, the share of its rows that were sorted right while they were held out.

        nan if the training of a fold failed, or if the class has no row.
        """
        if any(fold.error for fold in self.folds):
            return [math.nan] * max((len(fold.rows) for fold in self.folds), default=0)
        right = [sum(each) for each in zip(*(fold.right for fold in self.folds), strict=True)]
        rows = [sum(each) for each in zip(*(fold.rows for fold in self.folds), strict=True)]
        return [r / n if n else math.nan for r, n in zip(right, rows)]

    @property
    def seconds(self) -> float:
        """Seconds that the trainings took in their workers, all together."""
        return sum(fold.seconds for fold in self.folds)


@dataclass(frozen=True)
class KFold(Record, kind="kfold"):
    """The outcome of `kfold`.

    Attributes:
        dataset: name of the data set.
        k, stratified, seed, batch_size, epochs: as they were given.
        executor: how the trainings ran, in words.
        seconds: time from the call to its end.
        scores: one for each model and schedule, in the order in which they were given.
    """

    dataset: str
    k: int
    stratified: bool
    seed: int
    batch_size: int
    epochs: int
    executor: str
    seconds: float
    scores: list[Scores]

    def of(self, model: str, schedule: str) -> Scores:
        """Return the scores of one model with one schedule.

        Raises:
            KeyError: there are none.
        """
        for each in self.scores:
            if (each.model, each.schedule) == (model, schedule):
                return each
        raise KeyError(f"{model!r} with {schedule!r}: no such scores")

    def equals(self, other: "KFold") -> bool:
        """Whether both have trained the same weights, to the bit, and sorted the same rows right.

        A training that failed equals no other.
        """

        def found(result: KFold) -> list[Any]:
            return [
                (each.model, each.schedule, fold.right, fold.rows, fold.weights)
                for each in result.scores
                for fold in each.folds
            ]

        failed = any(fold.error for each in self.scores for fold in each.folds)
        return not failed and found(self) == found(other)

    def beside(self, serial: "KFold") -> str:
        """A table of this result beside that of a serial run of the same trainings.

        Raises:
            KeyError: the other result lacks a model or a schedule.
        """
        rows = []
        for each in self.scores:
            other = serial.of(each.model, each.schedule)
            same = [fold.weights for fold in each.folds] == [fold.weights for fold in other.folds]
            shares = [f"{scores.mean:.1%}" for scores in (other, each)]
            seconds = [f"{scores.seconds:.2f}" for scores in (other, each)]
            rows.append([each.model, each.schedule, *shares, "yes" if same else "no", *seconds])
        head = ["model", "schedule", "serial", "parallel", "same bits"]
        table = text_table([*head, "seconds of work, serial", "parallel"], rows)
        return (
            f"{table}\nserial {serial.seconds:.2f} s, parallel {self.seconds:.2f} s: "
            f"speedup {serial.seconds / self.seconds:.2f}"
        )

    def __str__(self) -> str:
        rows = [
            [
                *(each.model, each.schedule),
                *(f"{share:.1%}" for share in (each.mean, each.spread, *each.accuracies)),
                f"{each.seconds:.1f}",
            ]
            for each in self.scores
        ]
        folds = [f"fold {number}" for number in range(self.k)]
        return text_table(["model", "schedule", "mean", "spread", *folds, "seconds"], rows)

    def of_classes(self) -> str:
        """A table of the accuracy on each class."""
        rows = [
            [each.model, each.schedule, *(f"{share:.1%}" for share in each.of_class)]
            for each in self.scores
        ]
        classes = max(map(len, rows)) - 2
        return text_table(["model", "schedule", *(f"class {c}" for c in range(classes))], rows)


def kfold(
    models: Mapping[str, Builder] | Sequence[str],
    schedules: Mapping[str, Maker],
    dataset: Dataset,
    k: int,
    *,
    batch_size: int,
    epochs: int,
    stratified: bool = True,
    loss: Any = None,
    optimizer: Callable[..., Any] = SGD,
    checkpoint_every: int | None = None,
    print_every: int | None = None,
    executor: Any = None,
    journal: Any = None,
    seed: int = 0,
) -> KFold:
    """Train every model with every schedule on every fold, and count what each gets right.

    The training rows of `dataset` are divided into k parts (scikit-learn's `StratifiedKFold` or
    `KFold`, shuffled). Each part is held out once: the model trains on the others, and its score is
    that on the part. Values are normalised, and projected onto principal components if the set was
    loaded with `features=`, by what is fitted on the rows that train. The test rows of the set are
    never looked at.

    Seeds of the initial weights and of the order of rows belong to the model's name, the schedule's
    name and the fold. So the result is the same to the bit with any executor.

    Prepared folds lie in the cache of `nn.data`, which takes k times the room of the set.

    Args:
        models: name -> function that builds the model, called with `seed=` (and `loss=` if one is
            given), e.g. `{"mlp": partial(nn.mlp, [784, 128, 10])}`; or a list of names of nets. See
            `strategies.tasks.models`.
        schedules: name -> a rate, or a function from the number of steps of a training to a
            schedule, e.g. `{"cosine": partial(nn.lr_schedules.cosine, 0.1)}`.
        dataset: a set from `nn.data.load`, without validation rows.
        k: number of parts.
        batch_size, epochs: as for `strategies.train`.
        stratified: whether every part has every class in proportion.
        loss: what is trained to be small; by default the models' own.
        optimizer: a function from a schedule to an optimizer, e.g. `partial(SGD, momentum=0.9)`.
        checkpoint_every: steps between two checkpoints of a training, from which it goes on when
            its worker has died or the run is resumed; by default it then starts anew.
        print_every: steps after which each training prints where it is; by default it is silent.
        executor, journal: as for `run_tasks`.
        seed: seed of the division into folds, and of the seeds of all trainings.

    Returns:
        The scores. A training that fails leaves its error there; the others go on.

    Raises:
        TypeError, ValueError: an argument is not what it is expected to be.
    """
    steps = dict(checkpoint_every=checkpoint_every, print_every=print_every)
    check_terms({"optimizer": optimizer}, batch_size, epochs, **steps)
    training = _Training(
        as_builders(models, dataset),
        as_makers(schedules),
        dataset,
        k,
        stratified,
        seed,
        loss,
        optimizer,
        batch_size,
        epochs,
        checkpoint_every,
        print_every,
    )
    training.fold(0)  # what cannot be divided is refused before any training begins
    pairs = [(model, schedule) for model in training.models for schedule in training.schedules]
    tasks = [
        {"model": model, "schedule": schedule, "fold": number}
        for model, schedule in pairs
        for number in range(k)
    ]
    began = time.perf_counter()
    outcomes = run_tasks(training, tasks, executor, journal=journal, seed=seed)
    seconds = time.perf_counter() - began
    folds = [
        FoldScore(error=outcome.error, seconds=outcome.seconds)
        if outcome.error
        else FoldScore(**outcome.value, seconds=outcome.seconds)
        for outcome in outcomes
    ]
    scores = [Scores(*pair, folds[i * k : (i + 1) * k]) for i, pair in enumerate(pairs)]
    return KFold(
        dataset=dataset.name,
        k=k,
        stratified=stratified,
        seed=seed,
        batch_size=batch_size,
        epochs=epochs,
        executor=in_words(executor),
        seconds=seconds,
        scores=scores,
    )


@dataclass(frozen=True)
class _Training(FoldTraining):
    """The function of the tasks: one training on one fold."""

    print_every: int | None = field(compare=False)

    def __call__(self, task: dict[str, Any]) -> dict[str, Any]:
        rows = self.fold(task["fold"])
        steps = self.steps(rows)

        def say(history: History) -> None:
            if history.steps % self.print_every == 0:  # type: ignore[operator]
                print(
                    f"{task['model']}, {task['schedule']}, fold {task['fold']}: step "
                    f"{history.steps} of {steps}, loss {history.loss[-1]:.4f}",
                    flush=True,
                )

        on_step = say if self.print_every else None
        strategy, history = self.trained(task["model"], task["schedule"], rows, on_step)
        model: Any = strategy.model
        x, y = validation_rows(rows)
        found = score(model.predict(x), y, rows.classes)
        return {
            "right": found.right,
            "rows": found.rows,
            "loss": history.loss[-1],
            "weights": digest(model.params),
        }
