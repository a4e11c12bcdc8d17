"""A trial of whether an optimizer moves each element by itself."""

import copy
from typing import Any

import numpy as np

from nn.optim.groups import Part

TRIAL = np.array([3.0, -1e-3, 0.5, -2.0, 1e-6, 0.25, -7.0, 1.0])
"""A start and a gradient, with small and large elements in both parts."""

PARTS = (slice(0, 3), slice(3, 8))

WHOLE = Part("trial", 8, (2, 4))
"""The small vector as a matrix: some optimizers treat a matrix otherwise than a piece of one."""


def why_not_elementwise(optimizer: Any) -> str | None:
    """Say why an optimizer cannot update parts of a vector apart; None if it can.

    Copies of it take three steps on a small vector, one on the whole and two on a part each. A
    strategy whose ranks update slices would otherwise move the parameters in another way than
    plain training, e.g. if `apply` clips by the norm of what it is given.
    """
    try:
        trials = _trials(optimizer)
    except Exception as error:
        return f"a copy of it cannot be made: {error}"
    for trial in trials:
        whole, parts = TRIAL.copy(), TRIAL.copy()
        try:
            movers = [copy.deepcopy(trial) for _ in PARTS]
            if hasattr(trial, "assign"):
                trial.assign([WHOLE])
                for mover, part in zip(movers, PARTS):
                    mover.assign([Part(WHOLE.name, part.stop - part.start, None)])
            with np.errstate(all="ignore"):
                for scale in (1e-3, 1.0, 1e8):
                    gradient = scale * TRIAL[::-1]
                    norm = float(np.linalg.norm(gradient))
                    _step(trial, whole, gradient.copy(), norm)
                    for mover, part in zip(movers, PARTS):
                        _step(mover, parts[part], gradient[part].copy(), norm)
        except Exception as error:
            return f"it fails on a part of the parameters ({type(error).__name__}: {error})"
        if not np.allclose(whole, parts, rtol=1e-9, atol=0, equal_nan=True):
            return (
                "how it moves an element depends on the other elements that it is given; clipping "
                "belongs into clip_norm=..., which knows the norm of the whole gradient"
            )
    return None


def _trials(optimizer: Any) -> list[Any]:
    """Copies that have taken no step: of the optimizer without groups, and of each group's."""
    trial = copy.deepcopy(optimizer)
    trials = [trial]
    if getattr(trial, "groups", None) and hasattr(trial, "variants"):
        trials += trial.variants()
        trial.groups = []
    for each in trials:
        if hasattr(each, "state"):
            each.state = {}
        if hasattr(each, "steps"):
            each.steps = 0
        if callable(getattr(each, "lr", None)):
            each.lr = 0.1  # a schedule may begin at 0, and is not to be called before its time
    return trials


def _step(optimizer: Any, params: Any, grads: Any, norm: float) -> None:
    if getattr(optimizer, "clip_norm", None) is None:
        optimizer.step(params, grads)
    else:
        optimizer.step(params, grads, norm)
