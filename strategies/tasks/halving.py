"""Which trial of a search trains on, and how far: rules that know nothing of how trials are run.

A rule is told the accuracy of every job that ends, and answers with the jobs that may begin. A job
trains one trial up to the epochs of a rung; the trial goes on from its rung below.

    rule = Halving(trials=9, epochs=9)
    jobs = rule.begin()               # 9 jobs of 1 epoch
    for job in jobs: more = rule.ended(job, accuracy)   # after the last: 3 jobs of 3 epochs
"""

import math
from dataclasses import dataclass
from typing import Protocol

from nn.arguments import as_int


@dataclass(frozen=True)
class Job:
    """A trial that is to train up to the epochs of a rung, counted from 0."""

    trial: int
    rung: int


class Rule(Protocol):
    """Decides which jobs run.

    Attributes:
        epochs: of each rung, how many epochs a trial has trained at its end; empty if each trial
            has epochs of its own.
        accuracies: what `ended` was told, in that order.
    """

    epochs: list[int]
    accuracies: dict[Job, float]

    def begin(self) -> list[Job]:
        """Return the first jobs."""

    def ended(self, job: Job, accuracy: float) -> list[Job]:
        """Take note of the end of a job, and return the jobs that may begin now.

        Args:
            accuracy: on validation rows; nan if the training failed.
        """


def rungs(epochs: int, eta: int, least: int) -> list[int]:
    """Return the epochs of each rung: `epochs` at the last, and `eta` times less at each before it.

    Fractions are cut, and no rung has fewer than `least`.

    Raises:
        TypeError: an argument is not a whole number.
        ValueError: eta < 2, least < 1, or epochs < least.
    """
    as_int("eta", eta, 2)
    as_int("least", least, 1)
    found = [as_int("epochs", epochs, least)]
    while found[0] // eta >= least:
        found.insert(0, found[0] // eta)
    return found


def best_first(accuracies: dict[Job, float], rung: int) -> list[int]:
    """Return the trials that have ended a rung, the most accurate first.

    Of equal ones the one with the lower number is first, and those that failed are last.
    """
    found = [(job.trial, accuracy) for job, accuracy in accuracies.items() if job.rung == rung]
    return [trial for trial, _ in sorted(found, key=lambda each: (_rank(each[1]), each[0]))]


def winner(accuracies: dict[Job, float]) -> Job | None:
    """Return the most accurate job of the highest rung in which one has not failed, or None."""
    for rung in sorted({job.rung for job in accuracies}, reverse=True):
        best = Job(best_first(accuracies, rung)[0], rung)
        if not math.isnan(accuracies[best]):
            return best
    return None


def _rank(accuracy: float) -> float:
    return math.inf if math.isnan(accuracy) else -accuracy


class All:
    """Every trial trains to its end: grid search and random search."""

    def __init__(self, trials: int):
        self.trials = trials
        self.epochs: list[int] = []
        self.accuracies: dict[Job, float] = {}

    def begin(self) -> list[Job]:
        return [Job(trial, 0) for trial in range(self.trials)]

    def ended(self, job: Job, accuracy: float) -> list[Job]:
        self.accuracies[job] = accuracy
        return []


class Halving:
    """Successive halving: when all trials of a rung have ended, one in `eta` trains on.

    Jamieson and Talwalkar, "Non-stochastic best arm identification and hyperparameter optimization"
    (2016), figure 3, with eta in the place of 2; algorithm 1 of Li et al. (2018), see `Asha`. The
    last trial that is left trains on to the last rung. A trial that failed never trains on.

    Args:
        trials: number of trials.
        epochs: of the last rung.
        eta: of how many trials one trains on, and how many times as long.
        least: fewest epochs of the first rung.

    Raises:
        TypeError, ValueError: as `rungs`.
    """

    def __init__(self, trials: int, epochs: int, eta: int = 3, least: int = 1):
        self.trials, self.eta = trials, eta
        self.epochs = rungs(epochs, eta, least)
        self.accuracies: dict[Job, float] = {}
        self._waited_for: set[Job] = set()

    def begin(self) -> list[Job]:
        return self._wait_for([Job(trial, 0) for trial in range(self.trials)])

    def ended(self, job: Job, accuracy: float) -> list[Job]:
        self.accuracies[job] = accuracy
        self._waited_for.remove(job)
        if self._waited_for or job.rung + 1 == len(self.epochs):
            return []
        ended = best_first(self.accuracies, job.rung)
        promoted = [
            trial
            for trial in ended[: max(1, len(ended) // self.eta)]
            if not math.isnan(self.accuracies[Job(trial, job.rung)])
        ]
        return self._wait_for([Job(trial, job.rung + 1) for trial in sorted(promoted)])

    def _wait_for(self, jobs: list[Job]) -> list[Job]:
        self._waited_for = set(jobs)
        return jobs


class Asha:
    """Asynchronous successive halving: a worker that is free promotes a trial, or begins a new one.

    A trial may be promoted as soon as it is among the best 1/eta of those that have ended its rung
    so far, highest rung first. Li, Jamieson, Rostamizadeh, Gonina, Hardt, Recht, Talwalkar,
    "Massively parallel hyperparameter tuning" (2018), algorithm 2. Here the trials are finite: the
    search is over when all have begun and none can be promoted.

    Its decisions depend on the order in which jobs end, and on nothing else.

    Args:
        trials, epochs, eta, least: as for `Halving`.
        at_once: jobs that run at the same time.

    Raises:
        TypeError, ValueError: as `rungs`, or at_once < 1.
    """

    def __init__(self, trials: int, epochs: int, eta: int = 3, least: int = 1, at_once: int = 1):
        self.trials, self.eta, self.at_once = trials, eta, as_int("at_once", at_once, 1)
        self.epochs = rungs(epochs, eta, least)
        self.accuracies: dict[Job, float] = {}
        self._begun: set[Job] = set()

    def begin(self) -> list[Job]:
        return self._fill()

    def ended(self, job: Job, accuracy: float) -> list[Job]:
        self.accuracies[job] = accuracy
        return self._fill()

    def _fill(self) -> list[Job]:
        """Begin jobs until as many run as may."""
        jobs: list[Job] = []
        while len(self._begun) - len(self.accuracies) < self.at_once and (job := self._next()):
            self._begun.add(job)
            jobs.append(job)
        return jobs

    def _next(self) -> Job | None:
        """Algorithm 2's get_job."""
        for rung in reversed(range(len(self.epochs) - 1)):
            ended = best_first(self.accuracies, rung)
            for trial in ended[: len(ended) // self.eta]:
                failed = math.isnan(self.accuracies[Job(trial, rung)])
                if not failed and (job := Job(trial, rung + 1)) not in self._begun:
                    return job
        new = sum(job.rung == 0 for job in self._begun)
        return Job(new, 0) if new < self.trials else None
