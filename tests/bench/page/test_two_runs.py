"""Two runs on one page: each speedup that both have, before, after, and as a ratio."""

import csv
import math
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from bench.page.records import Records, everything, load
from bench.report.kinds import Measurement
from tests.bench.page import examples
from tests.support.optional import needs

pytestmark = [pytest.mark.workers(1)]
report = needs("altair", "vl_convert")


def speedup(value, low, high):
    return SimpleNamespace(value=value, low=low, high=high)


@report
def test_the_interval_of_a_ratio_is_that_of_a_difference_of_logarithms():
    """If both intervals are symmetric on the logarithms, their halves add as squares."""
    from bench.page.two_runs import ratio

    a, b = 0.03, 0.04
    before = speedup(2.0, 2 * math.exp(-a), 2 * math.exp(a))
    after = speedup(3.0, 3 * math.exp(-b), 3 * math.exp(b))
    value, low, high = ratio(before, after)
    assert value == pytest.approx(1.5)
    assert (math.log(1.5 / low), math.log(high / 1.5)) == pytest.approx((0.05, 0.05))


@report
def test_each_end_of_a_ratio_follows_from_the_ends_on_its_side():
    from bench.page.two_runs import ratio

    exact = speedup(1.0, 1.0, 1.0)
    skewed = speedup(1.0, 0.9, 1.3)
    assert ratio(exact, skewed) == pytest.approx((1, 0.9, 1.3))
    assert ratio(skewed, exact) == pytest.approx((1, 1 / 1.3, 1 / 0.9))


@report
def test_the_interval_of_a_ratio_holds_its_truth_as_often_as_theirs():
    """Skewed estimates: the mean of each is that of few exponential times, exactly known."""
    from scipy import stats

    from bench.page.two_runs import ratio

    rng, n, truth = np.random.default_rng(5), 10, 1.2
    low, high = stats.chi2.ppf([0.025, 0.975], 2 * n) / (2 * n)
    means = rng.gamma(n, 1 / n, (4000, 2)) * [1.0, truth]
    intervals = [
        ratio(*(speedup(mean, mean / high, mean / low) for mean in pair)) for pair in means
    ]
    held = np.mean([low <= truth <= high for _, low, high in intervals])
    assert 0.94 < held < 0.96


def slower(measured: Measurement, by: float) -> Measurement:
    """The same cell, of which every speedup is divided."""
    names = ("speedup", "speedup_low", "speedup_high")
    return replace(measured, **{name: getattr(measured, name) / by for name in names})


OLD = [
    ("bench/test_speedup.py::t", examples.cell("DataParallel")),
    ("bench/test_speedup.py::t", examples.cell("ZeRO")),
    ("bench/test_speedup.py::t", examples.cell("LocalSGD")),
    ("bench/test_speedup.py::t", examples.cell("only before")),
    ("bench/studies/scaling.py::t", examples.cell("ZeRO")),
    ("bench/studies/devices.py::t", examples.race("mlp, devices")),
]
NEW = [
    ("bench/test_speedup.py::t", slower(examples.cell("DataParallel"), 2.0)),
    ("bench/test_async.py::t", examples.cell("ZeRO")),  # the grid may be cut in other files
    ("bench/test_speedup.py::t", slower(examples.cell("LocalSGD"), 0.5)),
    ("bench/test_speedup.py::t", examples.cell("only after")),
    ("bench/studies/scaling.py::t", slower(examples.cell("ZeRO"), 4.0)),
    ("bench/studies/devices.py::t", examples.race("mlp, devices")),
]


@pytest.fixture
def runs(tmp_path) -> list[Records]:
    old = examples.save(tmp_path / "old.jsonl", OLD, "2026-03-01T00:00:00+00:00")
    new = examples.save(tmp_path / "new.jsonl", NEW, "2026-03-02T00:00:00+00:00")
    return [everything([source]) for source in load([new, old])[0]]


@report
def test_every_speedup_that_both_have_is_shown_with_its_ratio(runs):
    from bench.page.two_runs import figures, ratio

    ratios, sides = figures(*runs)
    grid, scaling = "mlp, batch 256, 10,000 rows, 2 workers", " (scaling)"
    race = "mlp, devices, batch 256, 1 worker, over the first (devices)"
    assert [(row["setting"], row["strategy"], row["change"]) for row in ratios.rows] == [
        (grid, "DataParallel", "slower"),
        (grid, "ZeRO", "no clear change"),
        (grid, "LocalSGD", "faster"),
        (grid + scaling, "ZeRO", "slower"),
        (race, "a slower one", "no clear change"),
        (race, "a faster one", "no clear change"),
    ]
    for row, factor in zip(ratios.rows, (0.5, 1, 2, 0.25, 1, 1), strict=True):
        assert row["ratio"] == pytest.approx(factor)
        ends = (
            speedup(*(row[f"{side}{end}"] for end in ("", "_low", "_high")))
            for side in ("before", "after")
        )
        assert (row["ratio"], row["low"], row["high"]) == ratio(*ends)
    first = ratios.rows[0]
    for side, (_, measured) in (("before", OLD[0]), ("after", NEW[0])):
        figures_of = (measured.speedup, measured.speedup_low, measured.speedup_high)
        assert tuple(first[f"{side}{end}"] for end in ("", "_low", "_high")) == figures_of
        (row,) = (
            row
            for row in sides.rows
            if (row["setting"], row["strategy"], row["side"]) == (grid, "DataParallel", side)
        )
        assert (row["speedup"], row["low"], row["high"]) == figures_of


@report
def test_the_first_answer_says_what_changed(runs):
    from bench.page.two_runs import answer

    found = answer(*runs)
    assert "Of 6 speedups that both have, 1 rose and 2 fell clearly." in found.sentence
    assert "The largest change is that of ZeRO: 0.25 times" in found.sentence
    assert [(row[1], row[-1]) for row in found.table.rows[:2]] == [
        ("ZeRO", "slower"),
        ("DataParallel", "slower"),
    ]
    m = examples.cell("DataParallel")
    low, high = m.speedup_low, m.speedup_high
    assert found.table.rows[1][2] == f"{m.speedup:.2f} ({low:.2f} to {high:.2f})"
    assert "Before is old.jsonl of 2026-03-01 00:00; after is new.jsonl" in found.notes[0]
    assert not any("machines differ" in note for note in found.notes)


@report
def test_runs_of_two_machines_say_so(tmp_path, runs):
    from bench.page.two_runs import answer

    other = examples.save(tmp_path / "x.jsonl", NEW, fingerprint={"cpu": "Another", "cores": 2})
    found = answer(runs[0], everything(load([other])[0]))
    assert any("The machines differ: cpu" in note for note in found.notes)


@report
def test_runs_without_a_common_speedup_say_so(tmp_path, runs):
    from bench.page.two_runs import answer, figures

    alone = examples.save(tmp_path / "x.jsonl", NEW[3:4])
    other = everything(load([alone])[0])
    assert figures(runs[0], other) == []
    assert answer(runs[0], other).sentence == "The two runs have no speedup in common."


@report
def test_the_page_of_two_runs_begins_with_what_changed(tmp_path, runs):
    from bench.page.files import write

    page = write(runs, tmp_path / "report").read_text(encoding="utf-8")
    changed = page.index("What has changed between the two runs?")
    assert changed < page.index("learn the same weights? (before)")
    ids = re.findall(r'<figure id="([^"]+)"', page)
    assert ids[:2] == ["change", "before-and-after"]
    assert "is each strategy? (before)" in page
    assert "is each strategy? (after)" in page
    with (tmp_path / "report" / "figures" / "change.csv").open(encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert [float(row["ratio"]) for row in table] == pytest.approx([0.5, 1, 2, 0.25, 1, 1])
    one = write(runs[:1], tmp_path / "one").read_text(encoding="utf-8")
    assert "What has changed" not in one
    assert "(before)" not in one
