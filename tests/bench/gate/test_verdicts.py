"""The table of verdicts, in terminals and logs."""

import io
import json
from xml.etree import ElementTree as ET

import pytest
from rich.console import Console

from bench.gate.statistics import Outcome, Verdict
from bench.gate.verdicts import Exit, Report, show, to_json, to_junit, to_markdown

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


CASES = {
    Outcome.PASS: None,
    Outcome.FASTER: None,
    Outcome.SEQUENTIAL_SLOWER: None,
    Outcome.SUSPECT: "error",
    Outcome.SLOWER: "failure",
    Outcome.SEQUENTIAL_FASTER: "failure",
    Outcome.MISSING: "failure",
    Outcome.INCONCLUSIVE: "error",
    Outcome.NOT_GATED: "skipped",
    Outcome.NEW: "skipped",
}
"""What JUnit calls each outcome; a test that passes has nothing."""


def test_each_outcome_is_what_junit_calls_it():
    report = Report("then", "now", [Verdict(f"a {each}", each, "why") for each in Outcome])
    suite = ET.fromstring(to_junit(report))
    found = {}
    for case in suite:
        (kind,) = {child.tag for child in case} - {"system-out"} or {None}
        found[case.get("name")] = kind
        if kind and kind != "system-out":
            assert case.find(kind).get("message") == "why"
    assert found == {f"a {outcome}": kind for outcome, kind in CASES.items()}
    kinds = list(CASES.values())
    numbers = {"failures": "failure", "errors": "error", "skipped": "skipped"}
    for name, kind in numbers.items():
        assert suite.get(name) == str(kinds.count(kind))
    assert suite.get("tests") == str(len(Outcome))


@pytest.mark.parametrize(
    ("outcomes", "code"),
    [
        ([Outcome.PASS, Outcome.NEW], Exit.HELD),
        ([Outcome.PASS, Outcome.INCONCLUSIVE], Exit.INCONCLUSIVE),
        ([Outcome.SUSPECT], Exit.INCONCLUSIVE),
        ([Outcome.NOT_GATED, Outcome.NEW], Exit.INCONCLUSIVE),
        ([], Exit.INCONCLUSIVE),
        ([Outcome.INCONCLUSIVE, Outcome.MISSING], Exit.FAILED),
    ],
)
def test_the_worst_outcome_is_the_exit_code_and_stands_in_the_report(outcomes, code):
    report = Report("then", "now", [Verdict(str(each), each, "why") for each in outcomes])
    assert report.exit == json.loads(to_json(report))["exit_code"] == code
    other_machine = Report("then", "now", report.verdicts, incomparable=["cpu: a before, b now"])
    assert other_machine.exit == Exit.INCOMPARABLE
    suite = ET.fromstring(to_junit(other_machine))
    assert suite.find("testcase[@name='fingerprint']/error").get("type") == "incomparable"


def test_a_bar_in_a_name_is_no_column_in_markdown():
    page = to_markdown(Report("then", "now", [Verdict("a|b", Outcome.SLOWER, "c | d")]))
    (row,) = (text for text in page.splitlines() if "slower" in text and text.startswith("|"))
    assert row.startswith("| a\\|b | ")
    assert row.endswith(" | c \\| d |")
