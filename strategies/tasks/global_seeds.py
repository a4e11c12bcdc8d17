"""The generators that a program shares: Python's, numpy's and torch's."""

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np


@contextmanager
def global_seeds(seeds: np.random.SeedSequence) -> Iterator[None]:
    """Seed the shared generators for the block, and put them back as they were.

    Tasks that draw from them would otherwise depend on the tasks that ran before in their process.
    torch's are seeded if torch has been imported.
    """
    python, of_numpy, of_torch = (int(word) for word in seeds.generate_state(3))
    torch = sys.modules.get("torch")
    before = random.getstate(), np.random.get_state()  # noqa: NPY002
    torch_before = torch and torch.get_rng_state()
    random.seed(python)
    np.random.seed(of_numpy)  # noqa: NPY002
    if torch:
        torch.manual_seed(of_torch)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
        if torch:
            torch.set_rng_state(torch_before)
