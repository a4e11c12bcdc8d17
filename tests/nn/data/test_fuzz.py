"""Readers of data sets, tried on files that are damaged at random."""

import pytest

from tests.nn.data.fuzzed import TARGETS
from tests.support import fuzz

pytestmark = pytest.mark.workers(1)  # nothing here depends on the number of ranks


@pytest.mark.deadline(3600)  # for the number of cases that a user asks for; usually seconds
@pytest.mark.parametrize("target", TARGETS)
def test_a_damaged_file_is_refused_or_read_right(target: str) -> None:
    fuzz.check("tests.nn.data.fuzzed", target, fuzz.CASES // len(TARGETS))
