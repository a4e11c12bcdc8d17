"""Does plain training take the steps of your own loop?

Run by `pytest tests --recipe file.py:recipe --reference file.py:train`, before every strategy is
compared with plain training (bench/user_code/README.md).
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from bench.user_code.differences import first_difference
from bench.user_code.nets import Net
from bench.user_code.reference import Reference
from bench.user_code.registry import loaded
from strategies import Sequential

pytestmark = pytest.mark.workers(1)

SIZES = (6, 6, 5, 6, 1, 6, 6, 4)
"""Rows of the batches: a loss that is summed, or divided by a fixed number, shows where they
change."""

TOLERANCE = 1e-10
"""Largest difference of a weight, relative to the largest weight: torch adds in other orders."""


@pytest.mark.parametrize("steps", [0, len(SIZES)])
def test_plain_training_has_the_weights_of_your_loop(pytestconfig, steps):
    """After no step and after each, the loop and `Sequential` have the same weights."""
    user_code = loaded(pytestconfig)
    compare(user_code.reference, user_code.net, user_code.optimizer, SIZES[:steps])


def compare(
    reference: Reference, net: Net, optimizer: Callable[[], Any], sizes: Sequence[int]
) -> None:
    """Compare the loop's weights with those of plain training after 0, 1, ... steps."""
    plain = Sequential(net.build("float64"), optimizer())
    batches = net.batches([min(size, net.largest_batch) for size in sizes]) if sizes else []
    before, start = None, plain.weights()
    for steps in range(len(batches) + 1):
        if steps:
            plain.step(batches[steps - 1])
        ours, theirs = plain.weights(), reference.weights(plain.model, batches[:steps])
        assert np.isfinite(ours).all(), f"step {steps - 1}: plain training is not finite"
        if not np.abs(ours - theirs).max() <= TOLERANCE * np.abs(ours).max():
            pytest.fail(first_difference(plain, before, theirs, batches[:steps], TOLERANCE))
        before = ours
    moved, largest = np.abs(ours - start).max(initial=0), np.abs(ours).max(initial=0)
    assert not batches or moved > 100 * TOLERANCE * largest, (
        f"in {len(batches)} steps the parameters moved by {moved:.1e} only, too little to show a "
        "difference: expected a larger learning rate, or a shorter warm-up"
    )
