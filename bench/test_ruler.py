"""Is the ruler straight?"""

import pytest

from bench.conftest import RUN
from bench.core.cell import Cell
from strategies.records import read

TOPIC = "ruler"


@pytest.mark.workers(1)
def test_plain_training_against_itself(speedup, benchmark, pytestconfig):
    """Plain training measured as a strategy has a speedup of 1, and its record holds its rounds."""
    result = speedup(Cell("Sequential", "mlp", 1, 256, 10_000))
    assert result.speedup_low < 1.03
    assert result.speedup_high > 0.97
    assert result.bound == pytest.approx(1, abs=0.1)
    assert read(pytestconfig.stash[RUN].path).records[-1] == result
    assert benchmark.stats.stats.data == result.rounds["parallel"]
