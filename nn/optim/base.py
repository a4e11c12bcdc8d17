"""The base class of optimizers: learning rate, clipping, groups and state."""

import math
from collections.abc import Callable, Iterable
from typing import Any, TypedDict, TypeVar

import numpy as np

from nn.arguments import as_float
from nn.optim.groups import Group, Part, Run, as_groups, check_used, runs_of, settings_of, variant
from nn.optim.vector import (
    Schedule,
    Vector,
    clamp,
    lacks_gradient,
    norm_of_part,
    norm_part,
    zeros_like,
)

MISSED = "missed"
"""The state vector that counts, for each parameter, the steps in which it had no gradient."""

Apply = TypeVar("Apply", bound=Callable[..., None])


def keeps_gradient(apply: Apply) -> Apply:
    """Declare that a method `apply` leaves the gradient as it was."""
    apply.keeps_gradient = True  # type: ignore[attr-defined]
    return apply


class Options(TypedDict, total=False):
    """Arguments of every optimizer; see `Optimizer`."""

    clip_norm: float | None
    norm_type: float
    clip_value: float | None
    groups: Iterable[Group]


class Optimizer:
    """Base class: update a flat vector of parameters in place from a gradient of equal length.

    An optimizer keeps state for the vector that it is first given, which may be a slice of a
    model's parameters: a strategy that shards the update passes the same slice every time. One
    optimizer object serves one strategy.

    A new optimizer names its state vectors in `slots` and implements `apply`. To take groups, it
    also keeps each argument as an attribute of the same name.

    Args:
        lr: the learning rate, or a schedule.
        clip_norm: the largest norm of the whole gradient, before weight decay. A gradient of a
            larger norm is multiplied by clip_norm / (norm + 1e-6) (Pascanu, Mikolov, Bengio, "On
            the difficulty of training recurrent neural networks", 2013, algorithm 1, in the form
            of torch.nn.utils.clip_grad_norm_). If the norm is infinite or NaN, so are the results.
        norm_type: 2 for the Euclidean norm, infinity for the largest magnitude.
        clip_value: the largest magnitude of an element of the gradient: larger ones are cut to it.
        groups: parameters with settings of their own: pairs of a shell pattern or a function of
            the parameter's name, and a dictionary of arguments of this optimizer, e.g.
            `[("*.bias", {"weight_decay": 0})]`. The first that matches wins.

    Attributes:
        state: name -> vector, allocated by the first step.
        steps: number of steps taken. A schedule is called with it, beginning at 0.

    Raises:
        TypeError: an argument is of a wrong type.
        ValueError: a negative number, another norm, clipping by norm and by value at once, or a
            group with settings that the optimizer does not have.
    """

    slots: tuple[str, ...] = ()
    """Names of the state vectors."""

    corrects_by_steps = False
    """Whether `apply` uses `steps`, which then counts the steps in which a parameter moved."""

    def __init__(
        self,
        lr: float | Schedule,
        *,
        clip_norm: float | None = None,
        norm_type: float = 2.0,
        clip_value: float | None = None,
        groups: Iterable[Group] = (),
    ):
        if not callable(lr):
            as_float("lr", lr, 0.0)
        if norm_type not in (2, math.inf):
            raise ValueError(f"norm_type={norm_type!r}: expected 2 or infinity")
        if clip_norm is not None and clip_value is not None:
            raise ValueError("clip_norm and clip_value: expected one of them")
        self.lr = lr
        self.clip_norm = None if clip_norm is None else as_float("clip_norm", clip_norm, 0.0)
        self.norm_type = float(norm_type)
        self.clip_value = None if clip_value is None else as_float("clip_value", clip_value, 0.0)
        self.groups = as_groups(groups, settings_of(type(self)))
        self.state: dict[str, Vector] = {}
        self.steps = 0
        self._parts: list[Part] | None = None
        self._runs: list[Run] = []
        self._may_lack = False
        self._variants: list[Any] = []

    @property
    def keeps_gradient(self) -> bool:
        """Whether a step that does not clip leaves `grads` as it was.

        SGD works in the memory of the gradient, and so may a class that replaces `apply`, unless
        it says otherwise by the decorator `keeps_gradient`.
        """
        own_step = type(self).step is Optimizer.step
        return own_step and getattr(type(self).apply, "keeps_gradient", False)

    def assign(self, parts: Iterable[Part], names: Iterable[str] | None = None) -> None:
        """Learn which parameters, or pieces of them, lie in the vector that `step` is given.

        A strategy calls this before the first step. Without groups it need not be called.

        Args:
            parts: the parts of the vector, in order.
            names: the names of all parameters of the model, to find groups that none belongs to.

        Raises:
            TypeError, ValueError: a group that no parameter belongs to, or values of settings that
                the optimizer refuses.
        """
        if names is not None:
            check_used(self.groups, names)
        self._parts = list(parts)
        self._runs = runs_of(self._parts, self.groups)
        self._may_lack = any(part.may_lack_gradient for part in self._parts)
        self._variants = self.variants()
        # A group may keep state that the others need not, e.g. a velocity.
        slots = [*self.slots, *(slot for each in self._variants for slot in each.slots)]
        if self.corrects_by_steps and self._may_lack:
            slots.append(MISSED)
        if (found := tuple(dict.fromkeys(slots))) != self.slots:
            self.slots = found

    def variants(self) -> list[Any]:
        """Make an optimizer for each group, of its settings."""
        return [variant(self, group) for group in self.groups]

    def step(self, params: Vector, grads: Vector, norm: float | None = None) -> None:
        """Update `params` in place; `grads` may be overwritten, see `keeps_gradient`.

        Args:
            norm: the norm of the whole gradient, of which `grads` may be a part. It is needed only
                to clip; None stands for the norm of `grads`.

        Raises:
            ValueError: params, grads and the state of earlier steps are not of equal length; or
                there are groups, and `assign` was not called with parts of that length.
        """
        if len(params) != len(grads):
            raise ValueError(
                f"{len(params)} parameters and {len(grads)} gradients: expected equally many"
            )
        if self.groups:
            self._check_parts(len(params))
        for name in self.slots:
            if name not in self.state:
                self.state[name] = zeros_like(params)
            elif len(self.state[name]) != len(params):
                raise ValueError(
                    f"{name} was kept for {len(self.state[name])} parameters and {len(params)} "
                    "are given: one optimizer object serves one slice of one model"
                )
        absent = self._absent(grads) if self._may_lack else []
        if self.clip_norm is not None or self.clip_value is not None:
            self._clip(grads, norm)
        lr = self.lr(self.steps) if callable(self.lr) else self.lr
        self.steps += 1
        if len(params):
            self.apply_all(params, grads, float(lr), absent)

    def _absent(self, grads: Vector) -> list[slice]:
        """Where the parameters lie that have no gradient."""
        if self._runs[-1].where.stop != len(grads):  # not the vector that was assigned
            self._may_lack = False
            return []
        return [
            run.where
            for run in self._runs
            if run.may_lack_gradient and lacks_gradient(grads[run.where])
        ]

    def apply_all(self, params: Vector, grads: Vector, lr: float, absent: list[slice]) -> None:
        """Call `apply`, or that of each group with its slices and settings.

        Parameters without a gradient, which are `absent`, stay as they are, and so does their
        state. So it is in torch, where weight decay and momentum do not move them either.
        """
        if not self.groups and not self._may_lack:
            self.apply(params, grads, lr)
            return
        state, steps, rates = self.state, self.steps, self._rates(lr)
        missed = state.get(MISSED)
        for where, group, _ in self._runs:
            if where in absent:
                if missed is not None:
                    missed[where] += 1
                continue
            each = self if group is None else self._variants[group]
            each.steps = steps
            if missed is not None and missed[where][0]:
                each.steps = steps - float(missed[where][0])
            each.state = {name: vector[where] for name, vector in state.items()}
            try:
                rate = lr if group is None else rates[group]
                each.apply(params[where], grads[where], rate)
            finally:
                each.state = {}
                self.state, self.steps = state, steps

    def _rates(self, lr: float) -> list[float]:
        """The learning rate of each group in this step, which `steps` already counts."""
        return [
            float(each.lr(self.steps - 1) if callable(each.lr) else each.lr)
            if "lr" in settings
            else lr
            for each, (_, settings) in zip(self._variants, self.groups)
        ]

    def apply(self, params: Vector, grads: Vector, lr: float) -> None:
        """Update `params` in place. `steps` already counts this step, and `state` has all slots.

        With groups it is called for one run of parameters after the other.
        """
        raise NotImplementedError

    def _check_parts(self, length: int) -> None:
        """Raise ValueError if the parts of a vector of this length are not known."""
        if self._parts is None:
            raise ValueError(
                "an optimizer with groups has to know which parameters it moves: give it to a "
                "strategy, or call assign() with the parts of the vector"
            )
        if length != (assigned := sum(part.size for part in self._parts)):
            raise ValueError(
                f"{length} parameters: expected {assigned}, the sum of the parts that assign() "
                "was given"
            )
        if self.groups and any(not part.name for part in self._parts):
            raise ValueError(
                "an optimizer with groups needs the names of the parameters, and this model gives "
                "none: expected a model with `parameters`"
            )

    def _clip(self, grads: Vector, norm: float | None) -> None:
        if self.clip_value is not None:
            clamp(grads, self.clip_value)
        elif self.clip_norm is not None:
            if norm is None:
                norm = norm_of_part(norm_part([grads], self.norm_type), self.norm_type)
            coefficient = self.clip_norm / (norm + 1e-6)
            if not coefficient >= 1:  # NaN too
                with np.errstate(invalid="ignore"):  # infinity times 0 is NaN, as in torch
                    grads *= coefficient
