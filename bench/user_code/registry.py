"""What the user gave, and what it is tried with: our exact strategies, or nets of ours."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from bench.user_code.nets import Net
from bench.user_code.optimizer import UserOptimizer
from bench.user_code.reference import Reference
from strategies.catalog import Build, select


@dataclass(frozen=True)
class UserCode:
    """What the user gave; None where the user gave nothing. False if there is nothing at all.

    Attributes:
        hides_scale: whether the optimizer moves parameters as far whatever the gradient's size.
        notes: what the trials cannot decide, each in a sentence.
    """

    net: Net | None = None
    strategy: Build | None = None
    strategy_name: str = ""
    optimizer: UserOptimizer | None = None
    hides_scale: bool = False
    reference: Reference | None = None
    notes: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.net or self.strategy or self.optimizer)

    def strategies(self) -> dict[str, Build]:
        """Return the user's strategy, or else those of ours that equal plain training."""
        if self.strategy:
            return {self.strategy_name: self.strategy}
        return {**select("user", exact=True, own_loss=False)}

    def nets(self, ours: dict[str, Net]) -> dict[str, Net]:
        """Return the user's net, or else the given ones of ours."""
        return {self.net.name: self.net} if self.net else ours

    def optimizers(self, ours: dict[str, Callable[[], Any]]) -> dict[str, Callable[[], Any]]:
        """Return the user's optimizer, or else the given ones of ours.

        One that hides errors of scale is joined by ours with momentum.
        """
        if not self.optimizer:
            return ours
        others = {SHOWS_SCALE: ours[SHOWS_SCALE]} if self.hides_scale else {}
        return {self.optimizer.name: self.optimizer, **others}


SHOWS_SCALE = "momentum"
"""The optimizer of ours that is tried beside a user's that hides errors of scale."""

USER_CODE = pytest.StashKey[UserCode]()


def loaded(config: pytest.Config) -> UserCode:
    """Return the user code of this run, which the plugin has loaded."""
    return config.stash.get(USER_CODE, UserCode())


def runs_silent(build: Build) -> bool:
    """Whether a strategy runs on without messages; `runs_silent = False` in its class says no."""
    return bool(getattr(getattr(build, "func", build), "runs_silent", True))
