"""Ensembles: several models, each trained by a worker, that sort rows together."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from nn.arguments import as_int
from nn.data import Dataset
from nn.optim import SGD
from strategies.records import Record
from strategies.tasks.combining import WAYS, Combine, Stacked, hard, soft
from strategies.tasks.executors import in_words
from strategies.tasks.fitting import check_terms, score, validation_rows
from strategies.tasks.fold_training import FoldTraining
from strategies.tasks.models import Builder, as_builders
from strategies.tasks.outcome import Outcome
from strategies.tasks.run import run_tasks
from strategies.tasks.schedules import Maker, as_makers
from strategies.tasks.text_table import text_table

EVERYTHING = -1
"""The fold of a training on all rows."""


@dataclass(frozen=True)
class EnsembleScores(Record, kind="ensemble"):
    """What the members of an ensemble, and their combinations, get right of the test rows.

    Attributes:
        dataset: name of the data set.
        k, repeats, seed, batch_size, epochs: as they were given.
        executor: how the trainings ran, in words.
        seconds: time from the call to its end.
        members: name -> the accuracy in each repeat.
        combinations: "soft", "hard" and "stacked" -> the accuracy in each repeat.
    """

    dataset: str
    k: int
    repeats: int
    seed: int
    batch_size: int
    epochs: int
    executor: str
    seconds: float
    members: dict[str, list[float]]
    combinations: dict[str, list[float]]

    @property
    def best_member(self) -> str:
        """The member that is right most often over all repeats: chosen in hindsight."""
        return max(self.members, key=lambda name: float(np.mean(self.members[name])))

    @property
    def spread(self) -> float:
        """Standard deviation of the best member's accuracy over repeats, which differ in seeds."""
        return float(np.std(self.members[self.best_member], ddof=1))

    def gain(self, way: str) -> float:
        """How much more a combination is right than the best member; the mean over repeats."""
        differences = np.subtract(self.combinations[way], self.members[self.best_member])
        return float(np.mean(differences))

    def pays(self, way: str) -> bool:
        """Whether a combination's gain is more than the spread over seeds."""
        return self.gain(way) > self.spread

    def __str__(self) -> str:
        def row(name: str, found: list[float], gain: str) -> list[str]:
            shares = [np.mean(found), np.std(found, ddof=1), *found]
            return [name, *(f"{share:.2%}" for share in shares), gain]

        rows = [row(name, found, "") for name, found in self.members.items()]
        for way, found in self.combinations.items():
            than = "more" if self.pays(way) else "not more"
            rows.append(row(way, found, f"{self.gain(way):+.2%}, {than} than the spread"))
        head = ["", "mean", "spread", *(f"seed {i}" for i in range(self.repeats))]
        return text_table([*head, f"gain over {self.best_member}"], rows)


class Ensemble:
    """Models that sort rows together; their architectures may differ.

        ensemble = Ensemble({"mlp": ..., "lenet": ...}, batch_size=64, epochs=5, schedules=0.05)
        print(ensemble.fit(load("digits", 2_000), executor=2))
        classes = ensemble.predict(x, "stacked")

    They are combined in three ways:
        "soft": the class of the largest mean probability;
        "hard": the class that most members choose; of equal ones the first;
        "stacked": a logistic regression on the probabilities of all members. It is fitted on
            predictions for rows that the members were not trained on: each is trained k times more,
            without one fold of the training rows, and predicts that fold.

    Args:
        models: as for `kfold`; at least two.
        batch_size, epochs: as for `strategies.train`.
        schedules: a rate or a function from the number of steps to a schedule, for all members; or
            a dict of these with the names of the members.
        optimizer, loss: as for `kfold`. Outputs must be logits of classes.

    Raises:
        TypeError, ValueError: an argument is not what it is expected to be.
    """

    def __init__(
        self,
        models: Mapping[str, Builder] | Sequence[str],
        *,
        batch_size: int,
        epochs: int,
        schedules: Maker | Mapping[str, Maker],
        optimizer: Callable[..., Any] = SGD,
        loss: Any = None,
    ):
        if len(models) < 2:
            raise ValueError(f"{len(models)} models: expected at least two members")
        check_terms({"optimizer": optimizer}, batch_size, epochs)
        self.models, self.optimizer, self.loss = models, optimizer, loss
        self.batch_size, self.epochs = batch_size, epochs
        if not isinstance(schedules, Mapping):
            schedules = dict.fromkeys(models, schedules)
        if schedules.keys() != set(models):
            raise ValueError(
                f"schedules of {sorted(schedules)}: expected one for each of {sorted(models)}"
            )
        self.schedules = as_makers(schedules)
        self._members: list[Any] = []
        self._stacked: Stacked | None = None
        self._classes = 0

    def fit(
        self,
        dataset: Dataset,
        *,
        k: int = 5,
        repeats: int = 3,
        checkpoint_every: int | None = None,
        executor: Any = None,
        journal: Any = None,
        seed: int = 0,
    ) -> EnsembleScores:
        """Train every member, and say what each and their combinations get right of the test rows.

        Members of the first repeat are kept, for `predict`. Nothing is chosen by the test rows.

        Args:
            dataset: a set from `nn.data.load`, without validation rows.
            k: number of folds of the training rows, for the meta-learner.
            repeats: how often all is trained, each time with other seeds; at least 2, since the
                gain of a combination is compared with the spread over seeds.
            checkpoint_every: steps between two checkpoints of a training, as for `kfold`.
            executor, journal: as for `run_tasks`. With a journal, the parameters of the members of
                the first repeat and all predictions are kept in it.
            seed: seed of the division into folds, and of the seeds of all trainings.

        Raises:
            TypeError, ValueError: an argument is not what it is expected to be.
            RuntimeError: a training has failed; the message has its error.
        """
        as_int("repeats", repeats, 2)
        check_terms({}, self.batch_size, self.epochs, checkpoint_every=checkpoint_every)
        training = _Training(
            as_builders(self.models, dataset),
            self.schedules,
            dataset,
            k,
            True,
            seed,
            self.loss,
            self.optimizer,
            self.batch_size,
            self.epochs,
            checkpoint_every,
        )
        y = np.concatenate([validation_rows(training.fold(number))[1] for number in range(k)])
        tasks = [
            {"member": name, "repeat": repeat, "fold": fold}
            for repeat in range(repeats)
            for name in training.models
            for fold in (EVERYTHING, *range(k))
        ]
        began = time.perf_counter()
        outcomes = run_tasks(training, tasks, executor, journal=journal, seed=seed)
        seconds = time.perf_counter() - began
        found = _values(outcomes, journal)
        members: dict[str, list[float]] = {name: [] for name in training.models}
        combinations: dict[str, list[float]] = {way: [] for way in WAYS}

        def right(predicted: NDArray) -> float:
            return score(predicted, dataset.y_test, dataset.classes).accuracy

        for repeat in range(repeats):
            tested = [found[name, repeat, EVERYTHING]["probabilities"] for name in members]
            unseen = [
                np.concatenate([found[name, repeat, fold]["probabilities"] for fold in range(k)])
                for name in members
            ]
            stacked = Stacked(unseen, y)
            for name, probabilities in zip(members, tested):
                members[name].append(right(probabilities.argmax(axis=1)))
            for way, combine in _ways(stacked).items():
                combinations[way].append(right(combine(tested)))
            if repeat == 0:
                self._stacked, self._classes = stacked, dataset.classes
                self._members = [
                    training.restored(name, found[name, 0, EVERYTHING]["state"]) for name in members
                ]
        return EnsembleScores(
            dataset=dataset.name,
            k=k,
            repeats=repeats,
            seed=seed,
            batch_size=self.batch_size,
            epochs=self.epochs,
            executor=in_words(executor),
            seconds=seconds,
            members=members,
            combinations=combinations,
        )

    def probabilities(self, x: NDArray) -> list[NDArray]:
        """Return the probability of each class, (n, classes), by each member.

        Args:
            x: (n, d) rows, prepared as those that the members were trained on.

        Raises:
            ValueError: the ensemble has not been fitted.
        """
        if not self._members:
            raise ValueError("the ensemble has not been fitted: call fit first")
        return [probabilities_of(model, x, self._classes) for model in self._members]

    def predict(self, x: NDArray, way: str = "soft") -> NDArray[np.int64]:
        """Return the class of each row, (n,), by one way to combine the members.

        Args:
            x: as for `probabilities`.
            way: "soft", "hard" or "stacked".

        Raises:
            ValueError: there is no such way, or the ensemble has not been fitted.
        """
        if way not in WAYS:
            raise ValueError(f"way={way!r}: expected one of {', '.join(WAYS)}")
        found = self.probabilities(x)
        assert self._stacked
        return _ways(self._stacked)[way](found)


def _values(outcomes: Sequence[Outcome], journal: Any) -> dict[tuple[str, int, int], Any]:
    """Return what each training came to, by member, repeat and fold.

    Raises:
        RuntimeError: a training has failed.
    """
    failed = [outcome for outcome in outcomes if outcome.error]
    if failed:
        kept = (
            "They are lost: with journal=, a second call would train the rest"
            if journal is None
            else f"They are kept in journal={journal}: the same call trains the rest"
        )
        raise RuntimeError(
            f"the training of {failed[0].task} failed: {failed[0].error}\n"
            f"{len(outcomes) - len(failed)} of {len(outcomes)} trainings have ended well. {kept}"
        )
    return {
        (each.task["member"], each.task["repeat"], each.task["fold"]): each.value
        for each in outcomes
    }


def _ways(stacked: Stacked) -> dict[str, Combine]:
    return dict(zip(WAYS, (soft, hard, stacked)))


def probabilities_of(model: Any, x: NDArray, classes: int) -> NDArray[np.float32]:
    """Return the softmax of a model's outputs, (n, classes).

    Raises:
        ValueError: the outputs are no logits of so many classes.
    """
    outputs = model.outputs(x)
    if outputs.shape != (len(x), classes):
        raise ValueError(
            f"the model makes outputs of shape {outputs.shape} of {len(x)} rows: expected a logit "
            f"for each of {classes} classes"
        )
    return softmax(outputs, axis=1).astype(np.float32)


class _Training(FoldTraining):
    """The function of the tasks: one member, trained on all rows or on all folds but one."""

    def __call__(self, task: dict[str, Any]) -> dict[str, Any]:
        name, number = task["member"], task["fold"]
        if number == EVERYTHING:
            rows, x = self.dataset, self.dataset.x_test
        else:
            rows = self.fold(number)
            x, _ = validation_rows(rows)
        strategy, _ = self.trained(name, name, rows)
        found: dict[str, Any] = {"probabilities": probabilities_of(strategy.model, x, rows.classes)}
        if number == EVERYTHING and task["repeat"] == 0:
            found["state"] = strategy.state()
        return found

    def restored(self, name: str, state: dict[str, NDArray]) -> Any:
        """Build a member, and give it the parameters that a task has trained."""
        strategy = self.untrained(name, name, steps=1, seed=0)
        strategy.load_state(state)
        return strategy.model
