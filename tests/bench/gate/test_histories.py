"""The simulated error rates of bench_history, and the page that they are written to."""

import math
import re

import numpy as np
import pytest

from bench.gate.aa import histories
from bench.gate.aa.__main__ import main
from bench.gate.aa.histories import CELLS, HEADER, KINDS, Noise

pytestmark = [pytest.mark.workers(1), pytest.mark.deadline(60)]


def drawn(noise, number=4000, length=2):
    """Return (number, CELLS, length) log speedups."""
    return np.array([noise.draw(np.random.default_rng(seed), length) for seed in range(number)])


@pytest.mark.parametrize("noise", KINDS.values(), ids=KINDS)
def test_baselines_vary_by_days_and_by_a_third_of_the_variance_of_launches(noise):
    expected = math.sqrt(noise.day**2 + noise.launch**2 / 3)
    spread = drawn(noise).std(axis=(0, 2))
    scale = np.geomspace(noise.unequal**-0.5, noise.unequal**0.5, CELLS)
    assert spread == pytest.approx(expected * scale, rel=0.05)


def test_cells_have_their_share_in_common():
    apart, together = (drawn(Noise(shared=shared)) for shared in (0.0, 0.8))
    found = [np.corrcoef(x[:, 0, 0], x[:, 1, 0])[0, 1] for x in (apart, together)]
    assert found == pytest.approx([0, 0.8], abs=0.05)


def test_a_day_is_like_the_day_before_as_far_as_it_should_be():
    """Launches are not, so the memory of baselines is shorter than that of days."""
    noise = Noise(day=0.02, launch=0.0, memory=0.5)
    days = drawn(noise, length=4)[:, 0]
    found = [np.corrcoef(days[:, 0], days[:, lag])[0, 1] for lag in (1, 2)]
    assert found == pytest.approx([0.5, 0.25], abs=0.05)


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(histories, "KINDS", {"usual": Noise()})
    monkeypatch.setattr(histories, "LENGTHS", (10,))
    monkeypatch.setattr(histories, "ROWS", 1)


def test_rates_of_usual_noise(few):
    (row,) = histories.rows(100)
    hits = {rate.outcome: rate.hits for rate in row.rates}
    assert list(hits) == list(HEADER[2:])
    assert hits["no change: found"] <= 4
    assert hits["no change: failed"] <= 1
    assert hits["10% step: found"] >= 98
    assert 85 <= hits["in its baseline"] <= hits["10% step: found"]
    assert hits["15% drift: found"] >= 98


def test_writes_the_page(few, tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{histories.MARKS[0]}\nold\n{histories.MARKS[1]}\nafter\n")
    assert main(["--histories", "10", "--write", str(page)]) == 0
    content = page.read_text()
    assert content.startswith("before\n")
    assert content.endswith("\nafter\n")
    assert "old" not in content
    assert re.search(r"\| usual \| 10 \| 0\.0% \(0\.0% to 30\.8%\) \|", content)
    assert "10 histories of 6 cells" in content


@pytest.mark.parametrize("wrong", [["--histories", "0"], ["--histories", "-1"]])
def test_refuses_no_histories(wrong):
    with pytest.raises(SystemExit) as ended:
        main(wrong)
    assert ended.value.code == 2


def test_a_page_without_marks_is_named_before_the_simulation(tmp_path, monkeypatch, capsys):
    page = tmp_path / "page.md"
    page.touch()
    monkeypatch.setattr(histories, "rows", None)
    with pytest.raises(SystemExit) as ended:
        main(["--histories", "10", "--write", str(page)])
    assert ended.value.code == 2
    assert "needs these two lines" in capsys.readouterr().err
