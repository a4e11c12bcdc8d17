"""What the user gave, and what it is tried with: our exact strategies, or nets of ours."""

from dataclasses import dataclass

import pytest

from bench.user_code.nets import Net
from strategies.catalog import Build, select


@dataclass(frozen=True)
class UserCode:
    """The user's model and strategy; None where the user gave none. False if there is neither."""

    net: Net | None = None
    strategy: Build | None = None
    strategy_name: str = ""

    def __bool__(self) -> bool:
        return bool(self.net or self.strategy)

    def strategies(self) -> dict[str, Build]:
        """Return the user's strategy, or else those of ours that equal plain training."""
        if self.strategy:
            return {self.strategy_name: self.strategy}
        return {**select("user", exact=True, own_loss=False)}

    def nets(self, ours: dict[str, Net]) -> dict[str, Net]:
        """Return the user's net, or else the given ones of ours."""
        return {self.net.name: self.net} if self.net else ours


USER_CODE = pytest.StashKey[UserCode]()


def loaded(config: pytest.Config) -> UserCode:
    """Return the user code of this run, which the plugin has loaded."""
    return config.stash.get(USER_CODE, UserCode())


def runs_silent(build: Build) -> bool:
    """Whether a strategy runs on without messages; `runs_silent = False` in its class says no."""
    return bool(getattr(getattr(build, "func", build), "runs_silent", True))
