"""What the user gave, and what it is tried with: our exact strategies, or nets of ours."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from bench.user_code.nets import Net
from strategies import (
    DataParallel,
    Hybrid,
    Pipeline,
    SharedDataParallel,
    TensorParallel,
    ZeRO,
)

Build = Callable[[Any, Any, Any], Any]
"""(model, optimizer, comm) -> strategy."""

EXACT: dict[str, Build] = {
    "DataParallel": DataParallel,
    "DataParallel-2-buckets": partial(DataParallel, buckets=2),
    "SharedDataParallel": SharedDataParallel,
    "ZeRO-1": ZeRO,
    "ZeRO-2": partial(ZeRO, stage=2),
    "ZeRO-3": partial(ZeRO, stage=3),
    "TensorParallel": TensorParallel,
    "Pipeline": partial(Pipeline, micro_batches=2),
    "Hybrid": lambda model, optimizer, comm: _hybrid(model, optimizer, comm),
}
"""Our strategies that train the weights of plain training: what a user's model is tried with."""


def _hybrid(model: Any, optimizer: Any, comm: Any) -> Hybrid:
    stages = 1 if comm.size % 2 else 2
    return Hybrid(model, optimizer, comm, data=comm.size // stages, stages=stages)


@dataclass(frozen=True)
class UserCode:
    """The user's model and strategy; None where the user gave none. False if there is neither."""

    net: Net | None = None
    strategy: Build | None = None
    strategy_name: str = ""

    def __bool__(self) -> bool:
        return bool(self.net or self.strategy)

    def strategies(self) -> dict[str, Build]:
        """Return the user's strategy, or else all exact ones of ours."""
        return {self.strategy_name: self.strategy} if self.strategy else EXACT

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
