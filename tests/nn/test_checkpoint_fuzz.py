"""A damaged checkpoint is refused by name, or read as it was written."""

from pathlib import Path

import numpy as np
import pytest

from nn import checkpoint
from tests.support import fuzz
from tests.support.fuzz import Target

pytestmark = pytest.mark.workers(1)


def write(folder: Path) -> list[Path]:
    vectors = ("params", "optimizer.velocity", "frozen.0.weight")
    arrays = {name: np.linspace(0, 1, 700, dtype=np.float32) for name in vectors}
    numbers = {"steps": np.array(3), "position": np.array(6)}
    history = {"history": np.frombuffer(b'{"epochs": 3}', np.uint8), "history.loss": np.ones(3)}
    checkpoint.write(folder / "run.npz", arrays | numbers | history)
    return [folder / "run.npz"]


TARGETS = {
    "checkpoint": Target(
        write,
        lambda folder: checkpoint.read(folder / "run.npz"),
        (ValueError, OSError),
    )
}


@pytest.mark.deadline(3600)  # for the number of cases that a user asks for; usually seconds
def test_damaged_checkpoints() -> None:
    fuzz.check(__name__, "checkpoint", fuzz.CASES)
