"""The generators that a program shares: Python's, numpy's and torch's."""

import random
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import numpy as np


@contextmanager
def global_seeds(seeds: np.random.SeedSequence) -> Iterator[None]:
    """Seed the shared generators for the block, and put them back as they were.

    Tasks that draw from them would otherwise depend on the tasks that ran before in their process.
    torch's are seeded now if torch has been imported, else when the block imports it.
    """
    python, of_numpy, of_torch = (int(word) for word in seeds.generate_state(3))
    with ExitStack() as restored:
        restored.callback(random.setstate, random.getstate())
        restored.callback(np.random.set_state, np.random.get_state())  # noqa: NPY002
        random.seed(python)
        np.random.seed(of_numpy)  # noqa: NPY002

        def seed_torch(torch: ModuleType) -> None:
            restored.callback(torch.set_rng_state, torch.get_rng_state())
            torch.manual_seed(of_torch)

        if torch := sys.modules.get("torch"):
            seed_torch(torch)
        else:
            restored.enter_context(_at_import("torch", seed_torch))
        yield


@contextmanager
def _at_import(name: str, then: Callable[[ModuleType], None]) -> Iterator[None]:
    """Call `then` with a module once the block has imported it, if it does."""
    finder = _Finder(name, then)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class _Finder(MetaPathFinder):
    """Finds one module as all other finders do, and has a call made after its import."""

    def __init__(self, name: str, then: Callable[[ModuleType], None]):
        self._name, self._then = name, then

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if name != self._name:
            return None
        # Finders of this class, of tasks in other threads, are asked too, so that all are called.
        after = sys.meta_path[sys.meta_path.index(self) + 1 :]
        found = (finder.find_spec(name, path, target) for finder in after)
        spec = next((each for each in found if each), None)
        if spec and spec.loader:
            loader: Any = spec.loader
            execute = loader.exec_module

            def execute_and_call(module: ModuleType) -> None:
                execute(module)
                self._then(module)

            loader.exec_module = execute_and_call
        return spec
