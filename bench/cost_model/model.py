"""Fit step times to measured cells, and predict others.

A step of P workers on B rows takes

    compute(net, B / P) * slowdown(P) + messages + memory

where compute is a part that does not depend on the rows and one for each row, so that small shards
cost more a row. Messages follow `collectives`, memory the bytes that `SharedDataParallel` touches.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from statistics import median

import numpy as np
from scipy import optimize

from bench.cost_model.collectives import NOTHING, Traffic, allreduce, chosen
from bench.cost_model.machine import Machine
from bench.cost_model.waiting import slowdown, spread

PERIOD, VECTORS = 10, 2
"""`LocalSGD-10` sums weights and momentum in every tenth step."""

MODELLED = ("DataParallel", "DataParallel-3-buckets", "SharedDataParallel", "LocalSGD-10")
FEWEST = 6
"""Measured steps that a fit needs, of at least two sizes of a shard for each net."""

CONTRADICTORY = 3.0
"""Records of one setting that differ by more than this factor are refused."""


@dataclass(frozen=True)
class Step:
    """A measured step: seconds of a strategy ("" for plain training, or without messages).

    `size` is the bytes of the net's parameters; `noise` its median and 95% quantile, if known.
    """

    net: str
    size: int
    strategy: str
    workers: int
    batch_size: int
    seconds: float
    silent: bool = False
    noise: tuple[float, float] | None = None


@dataclass(frozen=True)
class Prediction:
    """Seconds of a step, and the 95% interval."""

    seconds: float
    low: float
    high: float


def traffic(strategy: str, workers: int, size: int) -> Traffic:
    """Count the messages of a step of a net with `size` bytes of parameters.

    Raises:
        ValueError: the strategy is not modelled.
    """
    if strategy not in MODELLED:
        raise ValueError(f"{strategy}: expected one of {', '.join(MODELLED)}")
    if strategy == "SharedDataParallel":  # three barriers a step, of recursive doubling
        rounds = (workers - 1).bit_length()
        return Traffic(Fraction(3 * rounds), Fraction(0), Fraction(0))
    if strategy == "LocalSGD-10":
        every = allreduce(chosen(VECTORS * size), workers, VECTORS * size)
        return every.times(Fraction(1, PERIOD))
    buckets = 3 if strategy == "DataParallel-3-buckets" else 1
    part = size // buckets
    return allreduce(chosen(part), workers, part).times(buckets)


def touched(strategy: str, workers: int, size: int) -> float:
    """Count the bytes of shared memory that a rank reads and writes: P slices, and the weights."""
    return 2.0 * size if strategy == "SharedDataParallel" and workers > 1 else 0.0


@dataclass(frozen=True)
class Model:
    """A fitted machine: `compute` has seconds a step and a row for each net.

    `error` is the spread of the logarithm of measured over fitted; `fitted_to` the most workers.
    """

    machine: Machine
    compute: dict[str, tuple[float, float]]
    error: float
    fitted_to: int

    def seconds(self, net: str, size: int, strategy: str, workers: int, batch_size: int) -> float:
        """Predict a step; strategy "" is plain training."""
        fixed, per_row = self.compute[net]
        own = -(-batch_size // workers)  # the largest shard
        time = (fixed + per_row * own) * slowdown(self.machine.spread, workers)
        sent = traffic(strategy, workers, size) if strategy else NOTHING
        m = self.machine
        time += m.latency * float(sent.messages) + m.seconds_per_byte * float(sent.sent)
        time += m.combine * float(sent.combined)
        return time + m.memory * touched(strategy, workers, size)

    def predict(
        self, net: str, size: int, strategy: str, workers: int, batch_size: int
    ) -> Prediction:
        """Predict a step with an interval, wider by each doubling beyond the fitted workers."""
        value = self.seconds(net, size, strategy, workers, batch_size)
        beyond = max(0.0, math.log2(workers / self.fitted_to))
        width = math.exp(1.96 * self.error * (1 + beyond))
        return Prediction(value, value / width, value * width)


def fit(steps: Sequence[Step], cores: int) -> Model:
    """Fit a model to measured steps, by least squares of relative errors, none below 0.

    Raises:
        ValueError: there are too few steps, or steps that contradict each other.
    """
    _check(steps)
    noise = spread([step.noise for step in steps if step.noise])
    plain = [step for step in steps if step.silent or not step.strategy]
    compute = {net: _compute(net, plain, noise) for net in {step.net for step in steps}}
    sending = [s for s in steps if s.strategy and not s.silent and s.workers > 1]
    zero = Machine(cores, 0, 0, 0, 0, noise)
    bare = Model(zero, compute, 0, 1)
    matrix, rest = [], []
    for s in sending:
        t = traffic(s.strategy, s.workers, s.size)
        # A byte that is combined has been sent: the two cannot be told apart on few workers.
        terms = [float(t.messages), float(t.sent), touched(s.strategy, s.workers, s.size)]
        matrix.append([x / s.seconds for x in terms])
        own = bare.compute[s.net]
        rows = -(-s.batch_size // s.workers)
        rest.append(1 - (own[0] + own[1] * rows) * slowdown(noise, s.workers) / s.seconds)
    latency, per_byte, memory = _least(matrix, rest) if sending else (0.0, 0.0, 0.0)
    machine = Machine(cores, latency, per_byte, 0.0, memory, noise)
    fitted = Model(machine, compute, 0, max(s.workers for s in steps))
    errors = [
        math.log(
            s.seconds
            / fitted.seconds(s.net, s.size, "" if s.silent else s.strategy, s.workers, s.batch_size)
        )
        for s in steps
    ]
    error = max(1.4826 * median(map(abs, errors)), float(np.std(errors)), 0.01)
    return Model(machine, compute, error, fitted.fitted_to)


def _check(steps: Sequence[Step]) -> None:
    if len(steps) < FEWEST:
        raise ValueError(f"{len(steps)} measured steps: expected at least {FEWEST}")
    seen: dict[tuple[object, ...], float] = {}
    for s in steps:
        if not (math.isfinite(s.seconds) and s.seconds > 0):
            raise ValueError(f"a step of {s.net} took {s.seconds} s: expected more than 0")
        key = (s.net, s.strategy, s.workers, s.batch_size, s.silent)
        other = seen.setdefault(key, s.seconds)
        if max(other, s.seconds) > CONTRADICTORY * min(other, s.seconds):
            raise ValueError(
                f"{s.strategy or 'plain training'} of {s.net}, batch {s.batch_size}, {s.workers} "
                f"workers took {other:.3g} s and {s.seconds:.3g} s: these contradict each other"
            )


def _compute(net: str, plain: Sequence[Step], noise: float) -> tuple[float, float]:
    own = [s for s in plain if s.net == net]
    shards = [-(-s.batch_size // s.workers) for s in own]
    if len(set(shards)) < 2:
        raise ValueError(f"{net}: measured with {len(set(shards))} sizes of a shard: expected 2")
    waits = [slowdown(noise, s.workers) for s in own]
    matrix = [[w / s.seconds, w * r / s.seconds] for s, r, w in zip(own, shards, waits)]
    fixed, per_row = _least(matrix, [1.0] * len(own))
    return fixed, per_row


def _least(matrix: Sequence[Sequence[float]], values: Sequence[float]) -> list[float]:
    """Least squares without negative results, with columns of equal size."""
    array = np.asarray(matrix)
    scale = np.abs(array).max(axis=0)
    scale[scale == 0] = 1
    found, _ = optimize.nnls(array / scale, np.asarray(values))
    return [float(x) for x in found / scale]
