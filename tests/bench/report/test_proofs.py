"""Each test leaves one record, whatever its phases came to, and with what it compared."""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench.report.proofs import Comparison, Proof
from strategies import Sequential
from strategies.records import RunFile, read
from tests.conftest import COMPARISONS, WORKERS, Proofs, proof
from tests.support import compared
from tests.support.optimizers import momentum
from tests.support.oracles import assert_trains_like, random_batches
from tests.support.small_nets import small_mlp

pytestmark = pytest.mark.workers(1)

ROOT = Path(__file__).parents[3]
TEST = "tests/test_a.py::test_b"


def phase(when="call", outcome="passed", longrepr=None, about=(), **more):
    return SimpleNamespace(
        nodeid=TEST,
        when=when,
        outcome=outcome,
        passed=outcome == "passed",
        duration=0.25,
        longrepr=longrepr,
        user_properties=list(about),
        **more,
    )


CRASH = SimpleNamespace(reprcrash=SimpleNamespace(message="AssertionError: 1 == 2\nand more"))


@pytest.mark.parametrize(
    ("phases", "outcome", "reason"),
    [
        ([phase("setup"), phase(), phase("teardown")], "passed", ""),
        (
            [phase("setup"), phase(outcome="failed", longrepr=CRASH)],
            "failed",
            "AssertionError: 1 == 2",
        ),
        ([phase(), phase("teardown", "failed", "it broke")], "failed", "it broke"),
        ([phase("setup", "skipped", ("f", 1, "Skipped: no torch"))], "skipped", "no torch"),
        ([phase(outcome="skipped", wasxfail="known")], "xfailed", "known"),
        ([phase(outcome="passed", wasxfail="known")], "xpassed", "known"),
    ],
)
def test_a_test_fails_if_any_phase_does(phases, outcome, reason):
    made = proof(TEST, phases)
    assert (made.outcome, made.reason, made.seconds) == (outcome, reason, 0.25 * len(phases))


def test_a_record_is_written_when_the_test_is_over(tmp_path):
    run = RunFile(tmp_path / "run.jsonl", {})
    plugin = Proofs(run)
    comparison = Comparison("ZeRO", "net", 3, 0.0, 1e-12)
    plugin.pytest_runtest_logreport(phase("setup", about=[(WORKERS, "3")]))
    compared_with = json.dumps([asdict(comparison)])
    plugin.pytest_runtest_logreport(phase(about=[(COMPARISONS, compared_with)]))
    plugin.pytest_runtest_logreport(phase("teardown"))
    assert not run.path.exists()
    plugin.pytest_runtest_logfinish(TEST)
    assert read(run.path).records == [Proof(TEST, "passed", 3, 0.75, "", [comparison])]


def test_comparisons_with_an_oracle_are_noted(comm):
    compared.take()
    batches = random_batches(small_mlp(), 6)
    oracle, other = (Sequential(small_mlp(), momentum()) for _ in range(2))
    assert_trains_like(oracle, other, batches, comm)
    (comparison,) = compared.take()
    assert comparison == Comparison("Sequential", repr(small_mlp()), len(batches), 0.0, 1e-12)
    assert compared.take() == []


def test_a_session_leaves_a_record_for_each_of_its_tests(tmp_path):
    """Run by pytest as nox runs it, on one rank."""
    of_mpi = ("OMPI_", "PMIX_", "PMI_", "LOCKSTEP_RANKS")
    own = {key: value for key, value in os.environ.items() if not key.startswith(of_mpi)}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        f"--rootdir={tmp_path}",
    ]
    tests = ["-c", "pyproject.toml", "tests/strategies/test_zero.py", "-k", "matched_order"]
    environment = own | {"LOCKSTEP_SESSION": "trial", "LOCKSTEP_RANKS": "1"}
    subprocess.run([*command, *tests], cwd=ROOT, env=environment, check=True, capture_output=True)
    (path,) = (tmp_path / ".benchmarks" / "lockstep").iterdir()
    run = read(path)
    assert run.header["session"] == "trial"
    assert {"passed", "skipped"} == {record.outcome for record in run.records}
    for record in run.records:
        assert isinstance(record, Proof)
        assert "test_equals_the_matched_order" in record.test
        if record.outcome == "skipped":
            assert record.reason == f"needs {record.workers} ranks, this run has 1"
            continue
        (comparison,) = record.comparisons
        assert (comparison.strategy, comparison.error, comparison.tolerance) == ("ZeRO", 0.0, 0.0)
