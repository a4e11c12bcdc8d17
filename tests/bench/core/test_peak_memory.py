"""The peak of a call is that of all its arrays, numpy's and torch's, also if they are freed."""

import numpy as np
import pytest

from bench.core import peak_memory
from bench.core.peak_memory import peak_of

pytestmark = pytest.mark.workers(1)

MB = 2**20


def kept() -> int:
    found = peak_of(lambda: None)
    if found is None:
        pytest.skip("this system does not tell the peak of a process")
    return found


def test_arrays_that_are_freed_count_at_the_peak():
    torch = pytest.importorskip("torch")
    assert kept() < MB

    def by_numpy():
        np.ones(32 * MB // 8)
        np.ones(8 * MB // 8)

    def by_torch():
        a = torch.ones(16 * MB // 4)
        return a + 1

    for _ in range(2):  # the memory of the first call is there when the second begins
        assert peak_of(by_numpy) == pytest.approx(32 * MB, rel=0.1)
        assert peak_of(by_torch) == pytest.approx(32 * MB, rel=0.1)


def test_many_small_pieces_are_given_back_first():
    kept()

    def small():
        return [bytes(1000) for _ in range(32_000)]

    small()
    for _ in range(2):
        assert peak_of(small) == pytest.approx(32 * MB, rel=0.2)


def test_where_the_system_says_nothing_there_is_no_figure(monkeypatch, tmp_path):
    monkeypatch.setattr(peak_memory, "_CLEAR", tmp_path / "none" / "none")
    assert peak_of(lambda: None) is None
