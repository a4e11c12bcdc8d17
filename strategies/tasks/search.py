"""Hyper-parameter search: grid, random, successive halving, and its asynchronous form."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from nn.atomic_write import atomic_write
from nn.data import Dataset
from strategies.records import Record
from strategies.tasks.executors import in_words, ranks_of, size_of
from strategies.tasks.expression import expression
from strategies.tasks.fitting import check_terms, digest, score, validation_rows
from strategies.tasks.halving import All, Asha, Halving, Job, Rule, winner
from strategies.tasks.models import Builder, fully_connected
from strategies.tasks.order import Order
from strategies.tasks.outcome import Outcome
from strategies.tasks.run import run_tasks
from strategies.tasks.running import current
from strategies.tasks.space import OPTIMIZERS, as_space, check_names, configurations
from strategies.tasks.text_table import text_table
from strategies.tasks.trial import train_configuration

HOW = ("grid", "random", "halving", "asha")


@dataclass(frozen=True)
class Rung:
    """What a trial came to after so many epochs.

    Attributes:
        accuracy: on the validation rows; nan if the training failed.
        loss: of the last training step.
        seconds: that the task took in its worker; epochs before this rung are not in it.
        weights: digest of the trained parameters; equal only if all bits are.
        error: what happened if the training failed.
    """

    epochs: int
    accuracy: float = math.nan
    loss: float = math.nan
    seconds: float = 0.0
    weights: str = ""
    error: str | None = None


@dataclass(frozen=True)
class Trial:
    """A configuration that was tried.

    Attributes:
        number: from 0 on, in the order in which configurations were drawn.
        rungs: what it came to, after ever more epochs; one, unless the search halves.
    """

    number: int
    configuration: dict[str, Any]
    rungs: list[Rung] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        return sum(rung.seconds for rung in self.rungs)


@dataclass(frozen=True)
class Search(Record, kind="search"):
    """The outcome of `search`.

    Attributes:
        dataset: name of the data set.
        how, seed: as they were given.
        executor: how the trials ran, in words.
        seconds: time from the call to its end.
        trials: every configuration, tried or not yet begun.
        best: number of the winner: the most accurate on the validation rows, among the trials that
            have trained as long as any.
        epochs: that the winner has trained.
        accuracy: of the winner, on the validation rows.
        test_accuracy: of the winner, on the test rows.
        order: of "asha", the jobs in the order in which they ended, as (trial, rung); a search that
            is given it as `replay=` takes the same decisions.
        line: a line of Python that trains the winner again. `dataset` in it is the set that was
            searched, if that is not one of `nn.data` by its name.
    """

    dataset: str
    how: str
    seed: int
    executor: str
    seconds: float
    trials: list[Trial]
    best: int
    epochs: int
    accuracy: float
    test_accuracy: float
    order: list[tuple[int, int]]
    line: str

    @property
    def configuration(self) -> dict[str, Any]:
        """The winner's configuration."""
        return self.trials[self.best].configuration

    @property
    def work(self) -> float:
        """Seconds that all trials took in their workers, together."""
        return sum(trial.seconds for trial in self.trials)

    def decisions(self) -> list[tuple[int, int, float, str]]:
        """What every trial trained for and came to: equal for searches that decided alike.

        Each is (trial, epochs, accuracy, digest of the weights).
        """
        return [
            (trial.number, rung.epochs, rung.accuracy, rung.weights)
            for trial in self.trials
            for rung in trial.rungs
        ]

    def __str__(self) -> str:
        names = sorted({name for trial in self.trials for name in trial.configuration})
        varied = [
            name
            for name in names
            if any(
                trial.configuration.get(name) != self.trials[0].configuration.get(name)
                for trial in self.trials
            )
        ]
        rows = []
        for trial in self.trials:
            last = trial.rungs[-1] if trial.rungs else Rung(0)
            values = [str(trial.configuration.get(name, "")) for name in varied]
            mark = "best" if trial.number == self.best else ""
            found = [str(last.epochs), f"{last.accuracy:.1%}", f"{trial.seconds:.2f}", mark]
            rows.append([str(trial.number), *values, *found])
        head = ["trial", *varied, "trained for", "accuracy", "seconds", ""]
        return (
            f"{text_table(head, rows)}\nbest: {self.configuration}, {self.accuracy:.1%} of the "
            f"validation rows and {self.test_accuracy:.1%} of the test rows\n{self.line}"
        )


def search(
    space: Mapping[str, Any],
    dataset: Dataset,
    *,
    how: str = "grid",
    trials: int | None = None,
    model: Builder | None = None,
    optimizers: Mapping[str, Callable[..., Any]] = OPTIMIZERS,
    loss: Any = None,
    eta: int = 3,
    least: int = 1,
    at_once: int | None = None,
    replay: Sequence[tuple[int, int]] = (),
    checkpoint_every: int | None = None,
    executor: Any = None,
    journal: Any = None,
    seed: int = 0,
) -> Search:
    """Train many configurations, and find the one that sorts most validation rows right.

        space = {"lr": [0.3, 0.1, 0.03], "width": [32, 128], "batch_size": 64, "epochs": 9}
        found = search(space, load("digits", 2_000, validation=0.2), how="halving", executor=2)
        print(found)

    The test rows are looked at once, for the winner. The seeds of a trial belong to its
    configuration, so a configuration trains to the same bits in every search of the same `seed`,
    with any executor, in one go or from rung to rung.

    `how` is one of
        "grid": every configuration of a space of lists (scikit-learn's `ParameterGrid`);
        "random": `trials` of them, or of distributions (`ParameterSampler`);
        "halving": of `trials` configurations, or all, one in `eta` trains on from rung to rung,
            `eta` times as long (see `strategies.tasks.halving.Halving`);
        "asha": the same without waiting for rungs to be complete (`strategies.tasks.halving.Asha`).

    Args:
        space: name -> a list of values, one value for all, or a distribution of `scipy.stats`.
            "lr", "batch_size" and "epochs" are needed; "optimizer" is one of `optimizers` ("sgd" by
            default), "schedule" is "constant" (by default) or "cosine"; all other names are
            arguments of the model. Of a search that halves, "epochs" is one value, the most.
        dataset: a set with validation rows, from `nn.data.load(..., validation=)`.
        trials: number of configurations to draw by `seed`.
        model: a function that builds a model from its part of a configuration and `seed=` (and
            `loss=` if one is given); by default a fully connected net of "layers" hidden layers (1)
            with "width" neurons each (64).
        optimizers: name -> a function from a schedule to an optimizer.
        loss: what is trained to be small; by default the model's own.
        eta, least: of a search that halves: see `halving.rungs`.
        at_once: of "asha": trainings that run at the same time; by default as many as the
            executor, if it is a number, has workers, or the launch ranks.
        replay: of "asha": the `order` of an earlier search, whose decisions are taken again.
        checkpoint_every: steps between two checkpoints of a training, from which it goes on when
            its worker has died; by default one is written at its end.
        executor, journal: as for `run_tasks`. With a journal, the checkpoints of all trials are
            kept in the folder JOURNAL.checkpoints. A search that was broken off goes on from both.
        seed: seed of the draw, and of the seeds of all trials.

    Raises:
        TypeError, ValueError: an argument is not what it is expected to be.
        RuntimeError: no training has succeeded; the message has the first error.
    """
    if how not in HOW:
        raise ValueError(f"how={how!r}: expected one of {', '.join(HOW)}")
    if how == "grid" and trials is not None:
        raise ValueError('trials= with how="grid", which tries all: expected how="random"')
    if how == "random" and trials is None:
        raise ValueError('how="random": expected a number of trials=')
    if how != "asha" and (replay or at_once is not None):
        raise ValueError(f'replay= or at_once= with how={how!r}: expected how="asha"')
    validation_rows(dataset)
    check_terms({f"optimizers[{name!r}]": make for name, make in optimizers.items()}, 1, 1)
    chosen = as_space(space, distributions=trials is not None)
    check_names(model or partial(fully_connected, 1, 1), chosen)
    tried = configurations(chosen, trials, seed)
    for name in {configuration["optimizer"] for configuration in tried}:
        if name not in optimizers:
            raise ValueError(f"optimizer={name!r}: expected one of {', '.join(optimizers)}")
    rule = _rule(how, tried, eta, least, at_once, executor)
    how_trained = dict(model=model, optimizers=dict(optimizers), loss=loss, seed=seed)
    comm = ranks_of(executor)
    began = time.perf_counter()
    conductor = _Conductor(rule, tried, Order(replay))
    training = _Training(dataset, checkpoint_every, how_trained)
    run_tasks(
        training,
        conductor.begin(),
        executor,
        journal=journal,
        seed=seed,
        data=dict(trials=tried, how=how, eta=eta, least=least, at_once=getattr(rule, "at_once", 1)),
        then=conductor.ended,
    )
    seconds = time.perf_counter() - began
    if comm:  # rank 0 has conducted
        conductor, seconds = comm.bcast((conductor, seconds))
    best, tested = conductor.tested()
    return Search(
        dataset=dataset.name,
        how=how,
        seed=seed,
        executor=in_words(executor),
        seconds=seconds,
        trials=conductor.trials,
        best=best.trial,
        epochs=tested["epochs"],
        accuracy=conductor.rule.accuracies[best],
        test_accuracy=tested["accuracy"],
        order=[(job.trial, job.rung) for job in conductor.order.ended],
        line=_line(tried[best.trial], dataset, tested["epochs"], how_trained),
    )


def _rule(
    how: str,
    tried: list[dict[str, Any]],
    eta: int,
    least: int,
    at_once: int | None,
    executor: Any,
) -> Rule:
    if how in ("grid", "random"):
        return All(len(tried))
    most = {configuration["epochs"] for configuration in tried}
    if len(most) > 1:
        raise ValueError(
            f"epochs={sorted(most)} in a search that halves, whose trials train for ever more "
            "epochs: expected one value, the most"
        )
    (epochs,) = most
    if how == "halving":
        return Halving(len(tried), epochs, eta, least)
    if at_once is None and (at_once := size_of(executor)) is None:
        raise ValueError(
            f"how many trainings {type(executor).__name__} runs at the same time is not known: "
            "expected at_once="
        )
    return Asha(len(tried), epochs, eta, least, at_once)


class _Conductor:
    """Turns what a rule decides into tasks, and outcomes of tasks into what a rule is told.

    When no job is left it asks for one task more: the winner, on the test rows.

    Args:
        tried: the configuration of each trial.
        order: the order in which jobs end.
    """

    def __init__(self, rule: Rule, tried: list[dict[str, Any]], order: "Order"):
        self.rule, self.order = rule, order
        self.trials = [Trial(number, each) for number, each in enumerate(tried)]
        self._running: set[Job] = set()
        self._told: dict[Job, float] = {}
        self._test: Outcome | None = None

    def begin(self) -> list[dict[str, Any]]:
        return self._tasks(self.rule.begin())

    def ended(self, outcome: Outcome) -> list[dict[str, Any]]:
        """Take note of the end of a task, and return the tasks that may begin now."""
        task = outcome.task
        if task["rows"] == "test":
            self._test = outcome
            return []
        job = Job(task["trial"], task["rung"])
        found = {"error": outcome.error} if outcome.error else outcome.value
        rung = Rung(task["epochs"], **found, seconds=outcome.seconds)
        self.trials[job.trial].rungs.append(rung)
        self._told[job] = rung.accuracy
        new: list[Job] = []
        while due := self.order.next(self._told, self._running):
            self._running.remove(due)
            more = self.rule.ended(due, self._told.pop(due))
            self._running |= set(more)
            new += more
        if not self._running and (best := winner(self.rule.accuracies)):
            return [self._task(best, "test")]
        return self._tasks(new)

    def tested(self) -> tuple[Job, dict[str, Any]]:
        """Return the winner, and what it came to on the test rows.

        Raises:
            RuntimeError: no training has succeeded, or the winner's test failed.
        """
        best = winner(self.rule.accuracies)
        if best is None:
            error = next(rung.error for trial in self.trials for rung in trial.rungs)
            raise RuntimeError(f"no training has succeeded. The first error was: {error}")
        assert self._test is not None
        if self._test.error:
            raise RuntimeError(f"the winner's test failed: {self._test.error}")
        return best, {**self._test.value, "epochs": self._test.task["epochs"]}

    def _tasks(self, jobs: list[Job]) -> list[dict[str, Any]]:
        self._running |= set(jobs)
        return [self._task(job, "validation") for job in jobs]

    def _task(self, job: Job, rows: str) -> dict[str, Any]:
        configuration = self.trials[job.trial].configuration
        epochs = self.rule.epochs or [configuration["epochs"]]
        return {
            "trial": job.trial,
            "rung": job.rung,
            "epochs": epochs[job.rung],
            "rows": rows,
            "configuration": configuration,
        }


@dataclass(frozen=True)
class _Training:
    """The function of the tasks: a trial that goes on to the epochs of a rung.

    Attributes:
        how_trained: arguments of `train_configuration`.
    """

    dataset: Dataset
    checkpoint_every: int | None = field(compare=False)  # changes nothing of the result
    how_trained: dict[str, Any]

    def __call__(self, task: dict[str, Any]) -> dict[str, Any]:
        # A rung has a file of its own, so that a rung that is trained anew begins where it began.
        folder = current().checkpoint.parent
        folder.mkdir(parents=True, exist_ok=True)  # another host may have none of this name
        here, below = (folder / f"{task['trial']}-{task['rung'] - i}.npz" for i in (0, 1))
        if not here.exists() and below.exists():
            with atomic_write(here) as file:
                file.write(below.read_bytes())
        trained = train_configuration(
            task["configuration"],
            self.dataset,
            epochs=task["epochs"],
            checkpoint=here,
            checkpoint_every=self.checkpoint_every,
            **self.how_trained,
        )
        found, data = trained.score, self.dataset
        if task["rows"] == "test":
            found = score(trained.model.predict(data.x_test), data.y_test, data.classes)
        return {
            "accuracy": found.accuracy,
            "loss": trained.history.loss[-1],
            "weights": digest(trained.model.params),
        }


def _line(
    configuration: dict[str, Any], dataset: Dataset, epochs: int, how_trained: dict[str, Any]
) -> str:
    """A line of Python that trains a configuration again."""
    name = configuration["optimizer"]
    given: dict[str, Any] = {}
    if epochs != configuration["epochs"]:
        given["epochs"] = epochs
    if how_trained["model"] is not None:
        given["model"] = how_trained["model"]
    if (optimizer := how_trained["optimizers"][name]) is not OPTIMIZERS.get(name):
        given["optimizers"] = {name: optimizer}
    if how_trained["loss"] is not None:
        given["loss"] = how_trained["loss"]
    if how_trained["seed"]:
        given["seed"] = how_trained["seed"]
    text, needed = [repr(configuration), str(dataset.reload or "dataset")], set()
    for key, value in given.items():
        written, modules = expression(value)
        text.append(f"{key}={written}")
        needed |= modules
    begin = ["from nn.data import Fold, load", "from strategies.tasks import train_configuration"]
    imports = [f"import {module}" for module in sorted(needed)]
    return "; ".join([*imports, *begin, f"print(train_configuration({', '.join(text)}))"])
