"""Is the ruler straight?"""

import json

import pytest

from bench.conftest import LINES
from bench.core.cell import Cell

TOPIC = "ruler"


@pytest.mark.workers(1)
def test_plain_training_against_itself(speedup, benchmark, pytestconfig):
    """Sequential measured as if it were a strategy, and what is kept is what was measured."""
    result = speedup(Cell("Sequential", "mlp", 1, 256, 10_000))
    assert result.speedup_low < 1.03
    assert result.speedup_high > 0.97
    assert result.bound == pytest.approx(1, abs=0.1)
    last = json.loads(pytestconfig.stash[LINES].read_text().splitlines()[-1])
    assert last["rounds"] == result.rounds
    assert benchmark.stats.stats.data == result.rounds["parallel"]
