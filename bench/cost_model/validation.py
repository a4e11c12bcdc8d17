"""How wrong predictions are, on cells that the fit did not see."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench.cost_model.model import Prediction, Step, fit


@dataclass(frozen=True)
class HeldOut:
    """A measured step, what was predicted of it, and what the fit had not seen."""

    step: Step
    predicted: Prediction
    unseen: str

    @property
    def error(self) -> float:
        """Relative to the measured time."""
        return abs(self.predicted.seconds / self.step.seconds - 1)

    @property
    def covered(self) -> bool:
        return self.predicted.low <= self.step.seconds <= self.predicted.high


def held_out(steps: Sequence[Step], cores: int) -> list[HeldOut]:
    """Predict every strategy's step from fits without it.

    Three fits leave out, in turn: all of its batch size; its strategy; and of its net all that ran
    on several workers. A fit that is then refused predicts nothing.
    """
    found = []
    measured = [s for s in steps if s.strategy and not s.silent]
    for target in measured:
        fits = {
            "batch size": [s for s in steps if s.batch_size != target.batch_size],
            "strategy": [s for s in steps if s.strategy != target.strategy],
            "net on workers": [s for s in steps if s.net != target.net or s.workers == 1],
        }
        for unseen, seen in fits.items():
            if target in seen:
                continue
            try:
                model = fit(seen, cores)
            except ValueError:
                continue
            if target.net not in model.compute:
                continue
            predicted = model.predict(
                target.net, target.size, target.strategy, target.workers, target.batch_size
            )
            found.append(HeldOut(target, predicted, unseen))
    return found


def summary(found: Sequence[HeldOut]) -> dict[str, float]:
    """Median and 90th percentile of the errors, and the share of intervals that hold the truth."""
    errors = [each.error for each in found]
    return {
        "cells": len(found),
        "median": float(np.median(errors)) if errors else math.nan,
        "p90": float(np.quantile(errors, 0.9)) if errors else math.nan,
        "coverage": sum(each.covered for each in found) / len(found) if found else math.nan,
    }
