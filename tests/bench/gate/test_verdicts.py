"""The table of verdicts, in terminals and logs."""

import io

import pytest
from rich.console import Console

from bench.gate.statistics import Outcome, Verdict
from bench.gate.verdicts import Report, show

pytestmark = pytest.mark.workers(1)


@pytest.mark.parametrize("width", [None, 80])
def test_nothing_is_cut_off_in_a_log_or_a_narrow_terminal(width):
    cell = "speedup/SharedDataParallel-mlp-2w-b256-n10000-cpu"
    why = f"as if the parallel arm were 26.4% slower, {'confirmed, ' * 10}finally"
    figures = {"before": 1.57, "after": 1.24, "ratio": 0.791, "low": 0.772, "high": 0.811}
    verdict = Verdict(cell, Outcome.SLOWER, why, **figures, parallel_ratio=1.276)
    page = io.StringIO()
    console = Console(file=page, width=width, force_terminal=width is not None, color_system=None)
    show(Report("then", "now", [verdict]), console)
    rows = [line.split() for line in page.getvalue().splitlines()]
    assert any({"0.791", "0.772", "0.811", "1.276", "slower"} <= set(row) for row in rows)
    assert f"{cell}: {why}" in page.getvalue()
    assert cell in "".join(row[0] for row in rows if row)
    if not width:
        assert any(row[:1] == [cell] and "slower" in row for row in rows)
