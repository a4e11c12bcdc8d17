"""Rows that make the gradient nan on one rank do on every rank what they do in plain training."""

import numpy as np
import pytest

from nn import SGD, AdamW, Batch
from strategies import Sequential
from strategies.base import Refused
from tests.support.exact import EXACT
from tests.support.oracles import random_batches
from tests.support.small_nets import small_mlp

OPTIMIZERS = {
    "plain": lambda: SGD(0.1, momentum=0.9),
    "clipped": lambda: SGD(0.1, clip_norm=0.5),
    "adamw": lambda: AdamW(0.01, clip_value=0.1),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("kind", EXACT)
def test_no_rank_skips_a_step_by_itself(comm, kind, optimizer):
    try:
        strategy = EXACT[kind](small_mlp(), OPTIMIZERS[optimizer](), comm)
    except Refused as refusal:
        pytest.skip(str(refusal))
    plain = Sequential(small_mlp(), OPTIMIZERS[optimizer]())
    first, second = random_batches(small_mlp(), 5, steps=2)
    second = Batch(second.x.copy(), second.y)
    second.x[-1] = np.nan  # a row of the last rank
    for batch in (first, second, first):
        losses = [each.step(batch) for each in (plain, strategy)]
        np.testing.assert_allclose(losses[1], losses[0], rtol=0, atol=1e-12)
    expected = plain.weights()
    assert np.isnan(expected).any()
    np.testing.assert_allclose(strategy.weights(), expected, rtol=0, atol=1e-12)
    strategy.close()
