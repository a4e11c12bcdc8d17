"""With --share, a rank that goes wrong in a test of its own costs the other ranks nothing."""

from pathlib import Path

import pytest

from tests.faults.launch import launch


@pytest.mark.parametrize("ranks", [2, 4])
def test_others_go_on(tmp_path: Path, ranks: int) -> None:
    result = launch("apart", tmp_path, ranks, deadline=10.0, arguments=["--share"])
    failed = {e["test"]: e["text"] for e in result.log if e.get("outcome") == "failed"}
    assert failed.keys() == {"test_fails", "test_overruns"}, result.output
    assert "did not finish within 0.5 s" in failed["test_overruns"]
    assert result.passed("test_others_go_on"), result.output
    assert result.passed("test_others_go_on_again"), result.output
    assert result.code == 1
